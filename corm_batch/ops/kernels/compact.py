"""Compaction on a GPU: a program walks one list; entries only move towards its start, so tile after tile is safe."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.kernels.lists import numbers_of, place_of
from corm_batch.ops.pages import Lists, Pages

TILE_ELEMENTS = 8192
"""Numbers of one key tile: 64 a thread, so that a tile of keys and one of values fit the registers."""


def compact_lists(pages: Pages, lists: Lists, step_S: Tensor) -> Tensor:
    """`ops.compact.compact_lists` for a table whose rows are contiguous.

    Grid and scratch depend on shapes alone, so a CUDA graph may hold it.
    """
    num_sequences, num_heads = len(lists.slot), lists.length.shape[1]
    key_width, value_width = pages.key.shape[-1], pages.value.shape[-1]
    widest = triton.next_power_of_2(max(key_width, value_width))
    lost_SK = torch.empty(num_sequences, num_heads, dtype=torch.float32, device=step_S.device)
    _compact_kernel[(num_heads, num_sequences)](
        pages, lists, *lists.table.stride()[:2], *lists.length.stride(), *lists.shared.stride(), step_S, lost_SK,
        num_heads, KEY=key_width, VALUE=value_width, WIDEST=widest, C=pages.size, PAGE=pages.stride,
        TILE=max(16, TILE_ELEMENTS // widest), SCAN=512, num_warps=4,
    )  # fmt: skip
    return lost_SK


@triton.jit
def _compact_kernel(
    pages: Pages, lists: Lists, table_s: int, table_k: int, length_s: int, length_k: int, shared_s: int, shared_k: int,
    steps: tl.tensor, losses: tl.tensor, num_heads: int,
    KEY: tl.constexpr, VALUE: tl.constexpr, WIDEST: tl.constexpr, C: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, SCAN: tl.constexpr,
) -> None:  # fmt: skip
    """Look at what is a list's own, then move what lies behind its first dead entry; programs: head, row of the batch.

    What ends in _s or _k is a stride.
    """
    head, row = tl.program_id(0), tl.program_id(1)
    slot = tl.load(lists.slot + row)
    table = lists.table + slot * table_s + head * table_k
    length_at = lists.length + slot * length_s + head * length_k
    length = tl.load(length_at, mask=slot >= 0, other=0)
    step = tl.load(steps + row)
    shared = tl.load(lists.shared + slot * shared_s + head * shared_k, mask=slot >= 0, other=0)

    first = length
    removed = tl.zeros([SCAN], tl.float32)
    for start in range(shared, length, SCAN):
        index = start + tl.arange(0, SCAN)
        place = place_of(_page(table, index, index < length, C), index % C, PAGE)
        dead = (index < length) & ~_stays(pages, place, index < length, step)
        removed += tl.load(pages.statistic + place, mask=dead, other=0.0)  # [SCAN]
        first = tl.minimum(first, tl.min(tl.where(dead, index, length)))
    tl.store(losses + row * num_heads + head, tl.sum(removed))

    count = shared + (first - shared) // TILE * TILE
    column = tl.arange(0, WIDEST)[None, :]
    for start in range(count, tl.where(first < length, length, 0), TILE):
        index = start + tl.arange(0, TILE)
        page, within = _page(table, index, index < length, C), index % C
        source = place_of(page, within, PAGE)
        keep = _stays(pages, source, index < length, step)
        of_key, of_value = keep[:, None] & (column < KEY), keep[:, None] & (column < VALUE)
        key_at = numbers_of(pages.key, page, within, KEY, PAGE)[:, None] + column
        value_at = numbers_of(pages.value, page, within, VALUE, PAGE)[:, None] + column
        key, value = tl.load(key_at, mask=of_key), tl.load(value_at, mask=of_value)  # [TILE, KEY] and [TILE, VALUE]
        position = tl.load(pages.position + source, mask=keep)  # [TILE]
        expiry = tl.load(pages.expiry + source, mask=keep)  # [TILE]
        statistic = tl.load(pages.statistic + source, mask=keep)  # [TILE]
        to = count + tl.cumsum(keep.to(tl.int32)) - 1
        to_page, to_within = _page(table, to, keep, C), to % C
        target = place_of(to_page, to_within, PAGE)
        tl.debug_barrier()  # a slot of this tile may be written by another thread than the one that reads it
        tl.store(numbers_of(pages.key, to_page, to_within, KEY, PAGE)[:, None] + column, key, mask=of_key)
        tl.store(numbers_of(pages.value, to_page, to_within, VALUE, PAGE)[:, None] + column, value, mask=of_value)
        tl.store(pages.position + target, position, mask=keep)
        tl.store(pages.expiry + target, expiry, mask=keep)
        tl.store(pages.statistic + target, statistic, mask=keep)
        for i in tl.static_range(len(pages.own)):
            _move(pages.own[i], source, target, keep)
        for i in tl.static_range(len(pages.scales)):
            _move(pages.scales[i], source, target, keep)
        for i in tl.static_range(len(pages.further)):
            _move_value(pages.further[i], page, within, to_page, to_within, of_value, VALUE, PAGE, WIDEST)
        count += tl.sum(keep.to(tl.int32))
    if first < length:
        tl.store(length_at, count)


@triton.jit
def _move_value(
    numbers: tl.tensor, page: tl.tensor, within: tl.tensor, to_page: tl.tensor, to_within: tl.tensor, mask: tl.tensor,
    VALUE: tl.constexpr, PAGE: tl.constexpr, WIDEST: tl.constexpr,
) -> None:  # fmt: skip
    """One more value of every entry of a tile, [TILE, VALUE]."""
    column = tl.arange(0, WIDEST)[None, :]
    value = tl.load(numbers_of(numbers, page, within, VALUE, PAGE)[:, None] + column, mask=mask)
    tl.debug_barrier()
    tl.store(numbers_of(numbers, to_page, to_within, VALUE, PAGE)[:, None] + column, value, mask=mask)


@triton.jit
def _move(column: tl.tensor, source: tl.tensor, target: tl.tensor, keep: tl.tensor) -> None:
    """One number of every entry of a tile."""
    number = tl.load(column + source, mask=keep)  # [TILE]
    tl.debug_barrier()
    tl.store(column + target, number, mask=keep)


@triton.jit
def _page(table: tl.tensor, index: tl.tensor, mask: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """Pages where these entries of a list lie."""
    return tl.load(table + index // C, mask=mask, other=0)  # [TILE]


@triton.jit
def _stays(pages: Pages, place: tl.tensor, mask: tl.tensor, step: tl.tensor) -> tl.tensor:
    """Which entries a query after `step` may see; those outside the mask none."""
    position = tl.load(pages.position + place, mask=mask, other=0)  # [TILE]
    return mask & (position <= step) & (tl.load(pages.expiry + place, mask=mask, other=0) > step)
