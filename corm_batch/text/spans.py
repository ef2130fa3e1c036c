"""Spans of token ids: where one list of them differs from another, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence


def changed_span(token_ids: Sequence[int], other_ids: Sequence[int]) -> range:
    """What of `token_ids` is not in `other_ids`: between the beginning and the end that both have."""
    shorter = min(len(token_ids), len(other_ids))
    first = next((i for i in range(shorter) if token_ids[i] != other_ids[i]), shorter)
    room = shorter - first
    last = next((i for i in range(room) if token_ids[-1 - i] != other_ids[-1 - i]), room)
    return range(first, len(token_ids) - last)


def unchanged_ends(token_ids: Sequence[int], other_ids: Sequence[int]) -> tuple[range, ...]:
    """What of `token_ids` is also in `other_ids`, at the beginning and at the end, and one token more at each seam.

    A token at a seam may stand for the end of what both have and for the beginning of what they have not.
    """
    size, shorter = len(token_ids), min(len(token_ids), len(other_ids))
    first = next((i for i in range(shorter) if token_ids[i] != other_ids[i]), shorter)
    last = next((i for i in range(shorter) if token_ids[-1 - i] != other_ids[-1 - i]), shorter)
    spans = (range(min(first + 1, size) if first else 0), range(max(0, size - last - 1) if last else size, size))
    return tuple(span for span in spans if span)


def common_beginning(lists: Sequence[Sequence[int]]) -> int:
    """How many token ids all lists begin with alike, where none of them ends."""
    ordered, shortest = sorted(map(tuple, lists)), min(map(len, lists))
    pairs = zip(ordered[0][: shortest - 1], ordered[-1][: shortest - 1], strict=True)  # these begin as all do
    return next((i for i, (one, other) in enumerate(pairs) if one != other), max(0, shortest - 1))
