"""with_name(): the policy where none is named, by whether what is asked is known when a text is compressed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from corm_batch.errors import SpecError
from corm_batch.registry import shown

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "known": {"name": "corm"},
    "unknown": {"name": "kvzip", "chunk": 256, "budget": {"name": "adakv", "max_kept": 0.75, "floor": 0.0}},
}
"""Sections of the defaults by `question`; README.md here says by what measurement they were chosen."""


def with_name(section: Any, *, asks_several: bool = False) -> Any:
    """A policy's section of a spec as plug-ins are made of it: with a name, and without `question`.

    Args:
        section: with a name, which stands; with `question` (known: what is asked is part of what is compressed;
            unknown: it is asked afterwards) and perhaps fields of the default that this means; or empty.
        asks_several: what is asked comes over one reading of a text, so that nothing of it is known before; that is
            what an empty section goes by.

    Raises:
        SpecError: `question` is neither.
    """
    if not isinstance(section, Mapping):
        return section
    fields = dict(section)
    question = fields.pop("question", None)
    if question is not None and question not in list(DEFAULTS):
        raise SpecError(f"policy.question: got {shown(question)}, allowed are {' and '.join(DEFAULTS)}")
    if "name" in fields or (fields and question is None):
        return fields
    return {**DEFAULTS[question or ("unknown" if asks_several else "known")], **fields}
