"""Values that were measured on a model beforehand, in a spec itself or in a JSON file that it names.

    {"model": "SmolLM2-135M-Instruct", "weights_sha256": "...", "scores": [[0.1, ...], ...]}

What a file holds takes the place of its path as soon as a spec is read: it, not where it lay, is what counts. Which
weights it was measured on is remembered beside it for as long as the spec is not written out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel

from corm_batch.named_once import named_once


class Measured:
    """A value out of a file; equal to the same one without it.

    Attributes:
        command: that measures such a value.
        origin: the file.
        model: on which it says that this was measured.
        weights_sha256: of that model; None where it does not say.
    """

    command: ClassVar[str]
    origin: str
    model: str
    weights_sha256: str | None

    def told_by(self, origin: str, table: Mapping[str, Any]) -> Self:
        """The same value, out of what that file holds."""
        weights = table.get("weights_sha256")
        self.origin, self.model = origin, str(table.get("model"))
        self.weights_sha256 = weights if isinstance(weights, str) else None
        return self


def measured_values(owner: BaseModel, path: str) -> Iterator[tuple[str, Measured]]:
    """Those in the fields of a section, of its plug-ins and so on; each with its path, which begins with `path`."""
    for name, value in owner:
        if isinstance(value, Measured):
            yield f"{path}.{name}", value
        elif isinstance(value, BaseModel):
            yield from measured_values(value, f"{path}.{name}")


def read_table(path: str, what: str, key: str, kind: type, holds: str) -> dict[str, Any]:
    """What the file holds.

    Args:
        path: of the file.
        what, key, kind, holds: what it is called; where in it the value is, of which type, and what that is, in words.

    Raises:
        ValueError: it is no such file.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise ValueError(f"no {what} there: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no {what}: it is no JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get(key), kind):
        raise ValueError(f'no {what}: it has no "{key}", {holds}')
    return table


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return named_once(pairs, lambda key: ValueError(f"{key!r} is there twice"))
