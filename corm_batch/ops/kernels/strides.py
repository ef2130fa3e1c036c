"""How far apart the entries that a kernel reads lie, column by column."""

from __future__ import annotations

from typing import NamedTuple

from corm_batch.ops.pages import Entries

TILE_ELEMENTS = 8192
"""Numbers of one key tile: 64 a thread, so that a tile of keys and one of values fit the registers."""


class Strides(NamedTuple):
    """Elements from one head, or one entry, of `Entries` to the next."""

    key: int
    value: int
    position: int
    expiry: int
    statistic: int
    own: tuple[int, ...]


def strides(entries: Entries, dim: int) -> Strides:
    """Elements from one index of this dimension to the next."""
    key, value, position, expiry, statistic, *own = (column.stride(dim) for column in entries.tensors)
    return Strides(key, value, position, expiry, statistic, tuple(own))
