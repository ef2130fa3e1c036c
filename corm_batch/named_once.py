"""named_once(): the members of a JSON object, for decoders that are to refuse a name given twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any


def named_once(pairs: list[tuple[str, Any]], error: Callable[[str], BaseException]) -> dict[str, Any]:
    """An object of these members; of two values under one name one would be dropped without a word.

    Args:
        pairs: names and values.
        error: what is raised of a name that stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise error(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
    return found
