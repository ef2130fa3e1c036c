"""Spans of token ids: where one list of them differs from another."""

from __future__ import annotations

from collections.abc import Sequence


def changed_span(token_ids: Sequence[int], other_ids: Sequence[int]) -> range:
    """What of `token_ids` is not in `other_ids`: between the beginning and the end that both have."""
    shorter = min(len(token_ids), len(other_ids))
    first = next((i for i in range(shorter) if token_ids[i] != other_ids[i]), shorter)
    room = shorter - first
    last = next((i for i in range(room) if token_ids[-1 - i] != other_ids[-1 - i]), room)
    return range(first, len(token_ids) - last)
