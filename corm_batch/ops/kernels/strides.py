"""How far apart the entries that a kernel reads lie, column by column."""

from __future__ import annotations

from typing import NamedTuple

from corm_batch.ops.pages import Entries

TILE_ELEMENTS = 8192
"""Numbers of one key tile: 64 a thread, so that a tile of keys and one of values fit the registers."""


class Strides(NamedTuple):
    """Elements from one head, or one entry, of `Entries` to the next, in the columns that every policy has."""

    key: int
    value: int
    position: int
    expiry: int
    statistic: int


def strides(entries: Entries, dim: int) -> Strides:
    """Elements from one index of this dimension to the next."""
    return Strides(*(column.stride(dim) for column in entries[:5]))


def own_strides(entries: Entries, dim: int) -> tuple[int, ...]:
    """The same in the policy's own columns. Apart, for inside another tuple Triton 3.6 takes no strides of which one is
    1, and so known when the kernel is compiled, and another is not."""
    return tuple(column.stride(dim) for column in entries.own)
