"""Gathering entries on a GPU: one kernel copies lists of pages, and what is born behind them, column by column, for all
sequences of a pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.basis import Basis
from corm_batch.ops.form import Form
from corm_batch.ops.gather import gather_entries as definition
from corm_batch.ops.kernels.forms import load_decoded, numbers_a_word
from corm_batch.ops.kernels.lists import place_of
from corm_batch.ops.kernels.packed import bounds_of
from corm_batch.ops.kernels.strides import TILE_ELEMENTS, Strides, own_strides, strides
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries, Pages

_NEVER = tl.constexpr(NEVER)


def gather_entries(
    pages: Pages,
    table_SKP: Tensor,
    length_SK: Tensor,
    born: Entries,
    packing: tuple[Packing, Packing] | None = None,
    channels_SKW: Tensor | None = None,
    *,
    form: Form,
    basis: Basis | None = None,
) -> Entries:
    """`ops.gather.gather_entries` for a table whose rows and lengths are contiguous.

    What is stored in directions of its own is read as there: it is rebuilt by products of matrices.
    """
    if basis is not None:
        return definition(pages, table_SKP, length_SK, born, packing, channels_SKW, form=form, basis=basis)
    (num_sequences, num_heads, num_pages), num_born = table_SKP.shape, born.position.shape[1]
    page_size, head_dim = pages.size, born.key.shape[-1]
    newer, every = packing or (None, None)
    bounds = (None, None) if newer is None or every is None else (newer.bounds, every.bounds)
    total = num_pages * page_size + num_born if every is None else int(every.sizes.sum())
    longest = total if every is None else every.longest
    gathered = Entries.of(
        torch.empty(num_heads, total, *column.shape[2:], dtype=column.dtype, device=column.device)
        for column in born.tensors
    )
    width = head_dim
    if channels_SKW is not None:
        channels_SKW, width = channels_SKW.contiguous(), channels_SKW.shape[-1]
        gathered.key.zero_()
    kernels, padded_dim = form.kernels(), triton.next_power_of_2(head_dim)
    tile = max(16, TILE_ELEMENTS // padded_dim)
    _gather_kernel[(triton.cdiv(longest, tile), num_heads, num_sequences)](
        pages, born, strides(born, 0), strides(born, 1), own_strides(born, 0), own_strides(born, 1),
        gathered, table_SKP, *table_SKP.stride()[:2], length_SK, *bounds, total,
        num_born, channels_SKW, W=width, D=head_dim, PADDED_D=padded_dim, C=page_size, PAGE=pages.stride, TILE=tile,
        PACK=numbers_a_word(pages.value, head_dim), UNPACK=kernels.unpack, FACTORS=kernels.factors, num_warps=4,
    )  # fmt: skip
    return gathered


@triton.jit(do_not_specialize=["table_s", "table_k", "all_entries", "all_born"],
            do_not_specialize_on_alignment=["table", "lengths"])  # fmt: skip
def _gather_kernel(
    pages: Pages, born: Entries, head_stride: Strides, entry_stride: Strides,
    own_head: tl.tuple, own_entry: tl.tuple, gathered: Entries,
    table: tl.tensor, table_s: int, table_k: int, lengths: tl.tensor,
    born_bounds: tl.tensor | None, bounds: tl.tensor | None, all_entries: int, all_born: int,
    channels: tl.tensor | None, W: tl.constexpr, D: tl.constexpr, PADDED_D: tl.constexpr, C: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, PACK: tl.constexpr, UNPACK: tl.constexpr, FACTORS: tl.constexpr,
) -> None:  # fmt: skip
    """One tile of a head of a sequence; programs: tile, head, sequence."""
    index, head, s = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1).to(tl.int64), tl.program_id(2)
    start, count = bounds_of(bounds, s, tl.num_programs(2), all_entries)
    born_start, num_born = bounds_of(born_bounds, s, tl.num_programs(2), all_born)
    num_held = count - num_born
    held, inside = index < num_held, index < count
    new = inside & (index >= num_held)
    ids = table + s.to(tl.int64) * table_s + head * table_k
    page, within = tl.load(ids + index // C, mask=held, other=0), index % C  # [TILE]
    place, row = place_of(page, within, PAGE), (index - num_held + born_start).to(tl.int64)
    to = head * all_entries + start + index
    column = tl.arange(0, PADDED_D)[None, :]
    old, young = held[:, None] & (column < D), new[:, None] & (column < D)
    to_at = to[:, None] * D + column
    key_at = head * head_stride.key + row[:, None] * entry_stride.key + column
    value_at = head * head_stride.value + row[:, None] * entry_stride.value + column
    channel = column
    if channels is not None:
        of_list = channels + (s.to(tl.int64) * tl.num_programs(1) + head) * W
        channel = tl.load(of_list + column, mask=column < W, other=0).to(tl.int32)
    factors = FACTORS(pages.scales, 0, place, held)
    key = load_decoded(pages.key, factors, page, within, held, W, PAGE, PADDED_D, PACK, UNPACK)
    tl.store(gathered.key + to[:, None] * D + channel, key, mask=held[:, None] & (column < W))
    tl.store(gathered.key + to_at, tl.load(born.key + key_at, mask=young), mask=young)
    factors = FACTORS(pages.scales, 1, place, held)
    value = load_decoded(pages.value, factors, page, within, held, D, PAGE, PADDED_D, PACK, UNPACK)
    tl.store(gathered.value + to_at, value, mask=old)
    tl.store(gathered.value + to_at, tl.load(born.value + value_at, mask=young), mask=young)
    live = held & (index < tl.load(lengths + s * tl.num_programs(1) + head))
    position_at = head * head_stride.position + row * entry_stride.position
    expiry_at = head * head_stride.expiry + row * entry_stride.expiry
    statistic_at = head * head_stride.statistic + row * entry_stride.statistic
    tl.store(gathered.position + to, _NEVER, mask=held & ~live)
    tl.store(gathered.statistic + to, 0.0, mask=held & ~live)
    _copy(pages.position + place, live, born.position + position_at, new, gathered.position + to)
    _copy(pages.expiry + place, held, born.expiry + expiry_at, new, gathered.expiry + to)
    _copy(pages.statistic + place, live, born.statistic + statistic_at, new, gathered.statistic + to)
    for i in tl.static_range(len(pages.own)):
        own_at = head * own_head[i] + row * own_entry[i]
        _copy(pages.own[i] + place, held, born.own[i] + own_at, new, gathered.own[i] + to)


@triton.jit
def _copy(old: tl.tensor, is_old: tl.tensor, young: tl.tensor, is_young: tl.tensor, to: tl.tensor) -> None:
    """One column of the tile, from the pages and from what is born."""
    tl.store(to, tl.load(old, mask=is_old), mask=is_old)
    tl.store(to, tl.load(young, mask=is_young), mask=is_young)
