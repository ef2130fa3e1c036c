"""Storing entries on a GPU, in three kernels: what each tile of a head keeps is counted, every head gets its place, and
every tile copies its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.kernels.lists import numbers_of, place_of
from corm_batch.ops.kernels.strides import TILE_ELEMENTS, Strides, own_strides, strides
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries, Pages


def store_entries(
    pages: Pages,
    entries: Entries,
    keep_KN: Tensor,
    packing: Packing,
    own: Tensor,
    own_stops: Tensor,
    fresh: Tensor,
    used: Tensor,
    channels_SKW: Tensor | None = None,
    *,
    form: Form,
) -> tuple[Tensor, Tensor]:
    """As `ops.store.store_entries`; nothing waits for the device."""
    (num_heads, num_entries), num_sequences = keep_KN.shape, len(packing.sizes)
    page_size, key_dim, value_dim = pages.size, entries.key.shape[-1], entries.value.shape[-1]
    padded_dim = triton.next_power_of_2(max(key_dim, value_dim))
    tile = max(16, TILE_ELEMENTS // padded_dim)
    num_tiles = max(1, triton.cdiv(packing.longest, tile))
    keep = keep_KN.contiguous()
    count_SK, first_SK, further_SK = (
        torch.empty(num_sequences, num_heads, dtype=torch.int32, device=keep.device) for _ in range(3)
    )
    lost_SK = torch.empty(num_sequences, num_heads, device=keep.device)
    before = torch.empty(num_sequences, num_heads, num_tiles, dtype=torch.int32, device=keep.device)
    _count_kernel[(num_heads, num_sequences)](
        keep, entries.statistic, *entries.statistic.stride(), packing.bounds, count_SK, lost_SK, before, num_entries,
        num_tiles, TILE=tile, CHUNK=8192 // tile, num_warps=8,
    )  # fmt: skip
    _place_kernel[(1,)](
        count_SK, own_stops, first_SK, further_SK, used, num_sequences, num_heads, C=page_size,
        PADDED_K=triton.next_power_of_2(num_heads),
    )  # fmt: skip
    _copy_kernel[(num_tiles, num_heads, num_sequences)](
        pages, entries, strides(entries, 0), strides(entries, 1),
        own_strides(entries, 0), own_strides(entries, 1), keep, packing.bounds, count_SK, first_SK, further_SK, before,
        own, own_stops, fresh, len(fresh), num_entries, num_tiles, channels_SKW, D=value_dim, PADDED_D=padded_dim,
        W=key_dim if channels_SKW is None else channels_SKW.shape[-1],
        KEY=pages.key.shape[-1], VALUE=pages.value.shape[-1], C=page_size, PAGE=pages.stride,
        PADDED_C=triton.next_power_of_2(page_size), TILE=tile, SAVE=form.kernels().save, num_warps=4,
    )  # fmt: skip
    return count_SK, lost_SK


@triton.jit(do_not_specialize=["statistic_k", "num_entries", "num_tiles"])
def _count_kernel(
    keep: tl.tensor, statistic: tl.tensor, statistic_k: int, statistic_n: int, bounds: tl.tensor, counts: tl.tensor,
    lost: tl.tensor, before: tl.tensor, num_entries: int, num_tiles: int,
    TILE: tl.constexpr, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Entries a head keeps, those it keeps before each of its tiles, and the statistic of the others; programs: head,
    sequence."""
    head, sequence = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, size = tl.load(bounds + sequence), tl.load(bounds + tl.num_programs(1) + sequence)
    place = sequence * tl.num_programs(0) + head
    count, gone = 0, 0.0
    for start in range(0, num_tiles, CHUNK):
        tile = start + tl.arange(0, CHUNK)
        index = tile[:, None] * TILE + tl.arange(0, TILE)[None, :]
        kept = tl.load(keep + head * num_entries + begin + index, mask=index < size, other=0)
        kept_tile = tl.sum(kept.to(tl.int32), axis=1)
        earlier = count + tl.cumsum(kept_tile) - kept_tile
        tl.store(before + place * num_tiles + tile, earlier, mask=tile < num_tiles)
        count += tl.sum(kept_tile)
        leaves = (index < size) & (kept == 0)
        number = statistic + head * statistic_k + (begin + index) * statistic_n
        gone += tl.sum(tl.load(number, mask=leaves, other=0.0))
    tl.store(counts + place, count)
    tl.store(lost + place, gone)


@triton.jit(do_not_specialize=["num_sequences", "num_heads"], do_not_specialize_on_alignment=["own_stops"])
def _place_kernel(
    counts: tl.tensor, own_stops: tl.tensor, firsts: tl.tensor, further: tl.tensor, used: tl.tensor,
    num_sequences: int, num_heads: int, C: tl.constexpr, PADDED_K: tl.constexpr,
) -> None:  # fmt: skip
    """Which of its sequence's pages is a head's first, and how many of `fresh` are taken before its sequence's."""
    heads, taken = tl.arange(0, PADDED_K), tl.load(used)
    for sequence in range(num_sequences):
        at, there = sequence * num_heads + heads, heads < num_heads
        num_pages = (tl.load(counts + at, mask=there, other=0) + C - 1) // C
        tl.store(firsts + at, tl.cumsum(num_pages) - num_pages, mask=there)
        tl.store(further + at, taken + tl.zeros_like(heads), mask=there)
        num_own = tl.load(own_stops + sequence + 1) - tl.load(own_stops + sequence)
        taken += tl.maximum(tl.sum(num_pages) - num_own, 0)
    tl.store(used, taken)


@triton.jit
def _page_id(
    number: tl.tensor,
    mask: tl.tensor,
    own: tl.tensor,
    num_own: int,
    fresh: tl.tensor,
    num_fresh: int,
    taken: tl.tensor,
) -> tl.tensor:
    """The id of the page with this number in the call, 0 when the pool is short."""
    further = number - num_own
    place = further + taken
    first = tl.load(own + number, mask=mask & (further < 0), other=0)  # [TILE]
    return first + tl.load(fresh + place, mask=mask & (further >= 0) & (place < num_fresh), other=0)


@triton.jit(do_not_specialize=["num_fresh", "num_entries", "num_tiles"],
            do_not_specialize_on_alignment=["own", "own_stops", "fresh"])  # fmt: skip
def _copy_kernel(
    pages: Pages, entries: Entries, head_stride: Strides, entry_stride: Strides,
    own_head: tl.tuple, own_entry: tl.tuple,
    keep: tl.tensor, bounds: tl.tensor, counts: tl.tensor, firsts: tl.tensor, further: tl.tensor, before: tl.tensor,
    own: tl.tensor, own_stops: tl.tensor, fresh: tl.tensor, num_fresh: int, num_entries: int, num_tiles: int,
    channels: tl.tensor | None, D: tl.constexpr, PADDED_D: tl.constexpr, W: tl.constexpr, KEY: tl.constexpr,
    VALUE: tl.constexpr, C: tl.constexpr, PAGE: tl.constexpr, PADDED_C: tl.constexpr, TILE: tl.constexpr,
    SAVE: tl.constexpr,
) -> None:  # fmt: skip
    """Kept entries of one tile to their pages; a head's first tile cleans behind its list; programs: tile, head,
    sequence."""
    tile, head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    index, size = tile * TILE + tl.arange(0, TILE), tl.load(bounds + tl.num_programs(2) + sequence)
    inside = index < size
    index += tl.load(bounds + sequence)
    kept = tl.load(keep + head * num_entries + index, mask=inside, other=0).to(tl.int1)  # [TILE]
    num_kept = tl.sum(kept.to(tl.int32))
    if (num_kept > 0) | (tile == 0):
        this = sequence * tl.num_programs(1) + head
        start, begin = tl.load(firsts + this), tl.load(further + this)
        num_own = tl.load(own_stops + sequence + 1) - tl.load(own_stops + sequence)
        own_pages = own + tl.load(own_stops + sequence)
        column = tl.arange(0, PADDED_D)[None, :]
        if tile == 0:
            length = tl.load(counts + this)
            last = _page_id(start + length // C, length % C > 0, own_pages, num_own, fresh, num_fresh, begin)
            slot = tl.arange(0, PADDED_C)
            behind = (length % C > 0) & (slot >= length % C) & (slot < C)
            place = place_of(last, slot, PAGE)
            _clean(numbers_of(pages.key, last, slot, KEY, PAGE), behind, KEY, PADDED_D)
            _clean(numbers_of(pages.value, last, slot, VALUE, PAGE), behind, VALUE, PADDED_D)
            _write(pages, place, behind, 0, 0, 0.0)
            for i in tl.static_range(len(pages.own)):
                tl.store(pages.own[i] + place, tl.zeros([PADDED_C], pages.own[i].dtype.element_ty), mask=behind)
            for i in tl.static_range(len(pages.scales)):
                tl.store(pages.scales[i] + place, tl.zeros([PADDED_C], pages.scales[i].dtype.element_ty), mask=behind)
        if num_kept > 0:
            rank = tl.load(before + this * num_tiles + tile) + tl.cumsum(kept.to(tl.int32)) - 1  # [TILE]
            page = _page_id(start + rank // C, kept, own_pages, num_own, fresh, num_fresh, begin)
            row, wide = index.to(tl.int64), kept[:, None] & (column < D)
            channel = column
            if channels is not None:
                channel = tl.load(channels + this * W + column, mask=column < W, other=0).to(tl.int32)
            key_at = head * head_stride.key + row[:, None] * entry_stride.key + channel
            value_at = head * head_stride.value + row[:, None] * entry_stride.value + column
            within = rank % C
            place = place_of(page, within, PAGE)
            key = tl.load(entries.key + key_at, mask=kept[:, None] & (column < W), other=0.0)  # [TILE, W]
            SAVE(key, numbers_of(pages.key, page, within, KEY, PAGE), pages.scales, 0, place, kept, W, PADDED_D)
            value = tl.load(entries.value + value_at, mask=wide, other=0.0)  # [TILE, D]
            SAVE(value, numbers_of(pages.value, page, within, VALUE, PAGE), pages.scales, 1, place, kept, D, PADDED_D)
            _write(
                pages, place, kept,
                tl.load(entries.position + head * head_stride.position + row * entry_stride.position, mask=kept),
                tl.load(entries.expiry + head * head_stride.expiry + row * entry_stride.expiry, mask=kept),
                tl.load(entries.statistic + head * head_stride.statistic + row * entry_stride.statistic, mask=kept),
            )  # fmt: skip
            for i in tl.static_range(len(pages.own)):
                number = entries.own[i] + head * own_head[i] + row * own_entry[i]
                tl.store(pages.own[i] + place, tl.load(number, mask=kept), mask=kept)


@triton.jit
def _clean(numbers: tl.tensor, mask: tl.tensor, WIDTH: tl.constexpr, PADDED_D: tl.constexpr) -> None:
    """Zeros instead of keys or values, as wide as pages have them, from where each entry's begin."""
    column = tl.arange(0, PADDED_D)[None, :]
    zeros = tl.zeros([numbers.shape[0], PADDED_D], numbers.dtype.element_ty)
    tl.store(numbers[:, None] + column, zeros, mask=mask[:, None] & (column < WIDTH))


@triton.jit
def _write(
    pages: Pages, place: tl.tensor, mask: tl.tensor, position: tl.tensor, expiry: tl.tensor, statistic: tl.tensor
) -> None:
    """What is known of entries to their places in the pool, but for the policy's own columns."""
    tl.store(pages.position + place, position, mask=mask)
    tl.store(pages.expiry + place, expiry, mask=mask)
    tl.store(pages.statistic + place, statistic, mask=mask)
