"""Decode attention on a GPU, bound by how fast keys and values can be read.

    shared   (list, split) -> the same as the next one, for all rows of a group at once, of whole pages that they share
    attend   (list, split) -> over its share of a list: maximum, sum, weighted values; logits on the side for the vote
    merge    query head    -> output, softmax denominator, and the logit from which on a key counts as hit: attend does
                              that itself where it has all of a list
    vote     (list, block) -> expiry and statistic of a block of a list; only when a policy wants votes

What is seen beside a list, an earlier layer's entries, is another run over that one's lists, which goes on from what
the first came to.

A list is one kv head of one row. Rows of a group begin with the same entries: their queries fill the rows that a
matrix product has anyway, and each of these entries is read once for all of them. How a list is split follows from its
length, on the device: grids and scratch depend on shapes alone, so nothing waits for the device and a CUDA graph may
hold it all.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.decode import Distant, rows_at_once
from corm_batch.ops.form import Form, FormKernels
from corm_batch.ops.kernels.forms import numbers_a_word
from corm_batch.ops.kernels.lists import common_of, locate, span_of
from corm_batch.ops.kernels.merge import bounded, keep_bar, keep_part, merge
from corm_batch.ops.kernels.tile import each_row, part_of, queries_of, see
from corm_batch.ops.kernels.vote import vote
from corm_batch.ops.pages import Lists, Pages, narrowed
from corm_batch.ops.reduction import Reduction

PROGRAMS = 2048
"""Programs that keep a GPU of some hundred processors busy to the end, a few waves of them: fewer lists are split."""


def choose_block(head_dim: int, itemsize: int) -> int:
    """Entries at a time: 32, or 8 KiB of keys. Of 16 settings on an H200 one warp with 32 entries is the best or within
    5 % of it in every form (heads 128 wide, four to a kv head): it waits for no other warp."""
    padded_dim: int = triton.next_power_of_2(head_dim)
    return max(16, min(32, 8192 // (padded_dim * itemsize)))


def choose_splits(num_lists: int, num_slots: int) -> int:
    """Splits of a list that may have up to `num_slots` entries: no more than fill the device, 256 entries at least."""
    return max(1, min(-(-PROGRAMS // num_lists), num_slots // 256))


def decode_attention(
    pages: Pages,
    lists: Lists,
    query_SHD: Tensor,
    step_S: Tensor,
    reduction: Reduction | None,
    scale: float,
    softcap: float | None = None,
    sink_H: Tensor | None = None,
    leader_S: Tensor | None = None,
    distant: Distant | None = None,
    *,
    form: Form,
) -> Tensor:
    """As `ops.decode.decode_attention`, except that a row of slot -1 comes out as zeros.

    Args:
        pages: the pool.
        lists: as there; the table's rows are contiguous. With a reduction there is scratch of 4 bytes for every query
            head and every slot the table is wide: give it no wider than the longest list.
        query_SHD, step_S, reduction, scale, softcap, sink_H, leader_S, distant, form: as there.
    """
    softmax = scale, softcap, sink_H, leader_S
    if distant is None:
        return _attended(pages, lists, query_SHD, step_S, reduction, *softmax, form=form)
    # A list holds its query's own entry: its softmax has a denominator.
    lse = torch.empty(query_SHD.shape[:2], dtype=torch.float32, device=query_SHD.device)
    out = _attended(pages, lists, query_SHD, step_S, None, *softmax, form=form, lse=lse)
    before, hidden = (out, lse), (distant.first, distant.recent)
    softmax = scale, softcap, None, leader_S
    return _attended(
        distant.pages, distant.lists, query_SHD, step_S, None, *softmax, form=form, before=before, hidden=hidden
    )


def _attended(
    pages: Pages, lists: Lists, query_SHD: Tensor, step_S: Tensor, reduction: Reduction | None, scale: float,
    softcap: float | None, sink_H: Tensor | None, leader_S: Tensor | None, form: Form, lse: Tensor | None = None,
    before: tuple[Tensor, Tensor] | None = None, hidden: tuple[int | None, int | None] = (None, None),
) -> Tensor:  # fmt: skip
    """One run over lists, arguments as above.

    Args:
        lse: [S, H], where it is to leave the log-sum-exp; the output is in float32 then.
        before: what the same queries came to elsewhere and that log-sum-exp, with which this is one softmax.
        hidden: how many of the first positions, and of those up to a query's own, are not seen here.
    """
    (num_sequences, num_heads, head_dim), page_size = query_SHD.shape, pages.size
    num_kv_heads, num_slots = lists.table.shape[1], lists.table.shape[2] * page_size
    num_lists, group = num_sequences * num_kv_heads, num_heads // num_kv_heads
    basis = None if lists.basis is None else (lists.basis.halves, lists.basis.turns)
    head_dim = head_dim if basis is None else pages.value.shape[-1]  # values are seen as they are stored
    at_once, splits = rows_at_once(group), choose_splits(num_lists, num_slots)
    shared_splits = 0 if leader_S is None else choose_splits(-(-num_lists // at_once), num_slots)
    query, dtype = _as_keys(query_SHD, lists), query_SHD.dtype if lse is None else torch.float32
    out = query_SHD.new_empty(num_sequences, num_heads, head_dim, dtype=dtype)
    rows = (*lists[:3], *lists.table.stride()[:2], *lists.length.stride(), num_kv_heads)
    common = leader_S, lists.shared, *lists.shared.stride(), num_sequences

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(num_sequences, num_heads, *shape, dtype=dtype, device=query.device)

    counts, parts = reduction is not None and reduction.threshold == "cache", splits + shared_splits
    part = (None,) * 4 if parts == 1 else (
        scratch(parts, head_dim), scratch(parts), scratch(parts), scratch(parts, dtype=torch.int32) if counts else None
    )  # fmt: skip
    logits, lse = (scratch(num_slots), scratch()) if reduction else (None, lse)
    bar = scratch() if reduction and reduction.threshold else None
    found = out, lse, bar, step_S, sink_H, *(before or (None, None)), reduction.tau if reduction else 1.0
    sizes = {"G": group, "C": page_size, "D": head_dim, "REACH": reduction.reach if reduction else 0}
    sizes |= {"BLOCK_N": choose_block(head_dim, pages.key.element_size()), "COUNTS": counts}
    read = query, *pages[:4], pages.scales, *rows, *common, *part, basis
    shape = query, head_dim, pages, form.kernels(), basis is not None
    if leader_S is not None:
        _attend_shared[(num_lists, shared_splits)](
            *read, step_S, splits, scale, softcap, *hidden, M=at_once, **sizes, **_tile(at_once * group, *shape)
        )
    tile = _tile(group, *shape)
    _attend[(num_lists, splits)](*read, *found, parts, logits, num_slots, scale, softcap, *hidden, **sizes, **tile)
    if parts > 1:
        merge[(num_sequences * num_heads,)](
            *found, *rows, *common, *part, splits, shared_splits, BLOCK_S=16,
            BLOCK_D=triton.next_power_of_2(head_dim), **sizes,
        )  # fmt: skip
    if reduction:
        _launch_vote(num_lists, pages, lists, step_S, rows, reduction, group, logits, num_slots, lse, bar)
    return out if lists.basis is None else lists.basis.widened(out)


def _tile(
    num_heads: int, query: Tensor, head_dim: int, pages: Pages, kernels: FormKernels, rebuilds: bool
) -> dict[str, Any]:
    """The tiles of products in which so many query heads see keys as wide as `query`, and how these are unpacked.

    Half of the 16 rows that a product has at least may be none's: they take no registers. A warp can take 16 rows of
    heads 128 wide, with keys and values of 8 KiB on their way, and spill nothing. One that rebuilds keys has a head's
    directions in shared memory, too, and four warps need no more registers than three programs of them have.
    """
    pack, padded_dim = numbers_a_word(pages.value, head_dim), triton.next_power_of_2(head_dim)
    width, half = pages.key.shape[-1] if rebuilds else query.shape[-1], query.shape[-1] // 2
    heads = max(8 // kernels.num_factors, triton.next_power_of_2(num_heads))
    rows = max(16, kernels.num_factors * heads)
    return {
        "PAGE": pages.stride,
        "W": width,
        "BLOCK_G": heads,
        "H": half,
        "BLOCK_H": max(16, triton.next_power_of_2(half)),
        "BLOCK_W": max(16, triton.next_power_of_2(width) // pack),
        "BLOCK_D": max(16, padded_dim // pack),
        "PACK": pack,
        "UNPACK": kernels.unpack,
        "FACTORS": kernels.factors,
        "NUM_FACTORS": kernels.num_factors,
        "num_warps": 4 if rebuilds else max(1, rows * padded_dim * query.element_size() // 4096),
        "num_stages": 2 if rebuilds else 3,
    }


def _as_keys(query_SHD: Tensor, lists: Lists) -> Tensor:
    """Queries as wide as the keys of their lists, contiguous: [S, H, W]."""
    if lists.channels is None:
        return query_SHD.contiguous()
    channels = lists.channels[lists.slot.clamp(min=0)]
    return narrowed(query_SHD, channels.repeat_interleave(query_SHD.shape[1] // channels.shape[1], dim=1))


def _launch_vote(
    num_lists: int, pages: Pages, lists: Lists, step_S: Tensor, rows: tuple[Any, ...], reduction: Reduction, group: int,
    logits: Tensor | None, num_slots: int, lse: Tensor | None, bar: Tensor | None,
) -> None:  # fmt: skip
    """The vote of queries at these steps; what was found of them as the kernel takes it."""
    kind, page_size, reach = reduction.gathers, pages.size, reduction.reach
    size = max(512, triton.next_power_of_2(4 * reach))
    vote[(num_lists, triton.cdiv(num_slots, size - 2 * reach))](
        step_S, *pages[2:5], *rows, lists.shared, *lists.shared.stride(), logits, num_slots, lse, bar,
        reduction.window, G=group, C=page_size, PAGE=pages.stride, REACH=reach, POWER=kind.power, HEADS=kind.heads,
        ROWS=kind.rows, SINCE_HIT=kind.since_hit, BLOCK_N=size,
    )  # fmt: skip


@triton.jit
def _attend_shared(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor, scales: tl.tuple,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    basis: tl.tuple | None, step: tl.tensor, own_splits: int, scale: float, softcap: float | None,
    early: int | None, recent: int | None,
    M: tl.constexpr, G: tl.constexpr, C: tl.constexpr, PAGE: tl.constexpr, W: tl.constexpr, D: tl.constexpr,
    REACH: tl.constexpr, COUNTS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr, H: tl.constexpr, BLOCK_H: tl.constexpr, PACK: tl.constexpr, UNPACK: tl.constexpr,
    FACTORS: tl.constexpr, NUM_FACTORS: tl.constexpr,
) -> None:  # fmt: skip
    """One split of what a group of rows shares of one kv head; the program of its first row does it."""
    row, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    first = row // num_kv_heads
    common = common_of(row, leader, shared, shared_s, shared_k, num_rows, slot, num_kv_heads, C, REACH)
    span = span_of(common, splits, BLOCK_N)
    begin, end = split * span, tl.minimum(split * span + span, common)
    if (begin >= end) | (tl.load(leader + first) != first):
        return
    ids, _ = locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    g = tl.arange(0, BLOCK_G)
    s = first + g // G
    there = tl.load(leader + s, mask=(g < M * G) & (s < num_rows), other=-1) == first
    now = tl.load(step + s, mask=there, other=0)  # [BG]
    head = (s * num_kv_heads + row % num_kv_heads) * G + g % G
    q = queries_of(query, head, there, basis, len(scales), W, BLOCK_W, H, BLOCK_H, PACK, NUM_FACTORS)
    outs, top, total, count = see(
        begin, end, q, now, head, there, tl.full([BLOCK_G], float("-inf"), tl.float32), ids, key, value, position,
        expiry, scales, basis, row % num_kv_heads, None, 0, scale, softcap, early, recent, True, COUNTS, C, PAGE, W, D,
        BLOCK_G, BLOCK_W, BLOCK_D, BLOCK_N, H, BLOCK_H, PACK, UNPACK, FACTORS, NUM_FACTORS,
    )  # fmt: skip
    mine = head * (own_splits + splits) + own_splits + split
    keep_part(mine, there, outs, top, total, count, part_out, part_max, part_sum, part_count, D, NUM_FACTORS)


@triton.jit
def _attend(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor, scales: tl.tuple,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor | None, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor | None, part_max: tl.tensor | None, part_sum: tl.tensor | None, part_count: tl.tensor | None,
    basis: tl.tuple | None, out: tl.tensor, lse: tl.tensor | None, bar: tl.tensor | None, step: tl.tensor,
    sink: tl.tensor | None, before: tl.tensor | None, before_lse: tl.tensor | None, tau: float, parts: int,
    logits: tl.tensor | None, num_slots: int, scale: float, softcap: float | None, early: int | None,
    recent: int | None,
    G: tl.constexpr, C: tl.constexpr, PAGE: tl.constexpr, W: tl.constexpr, D: tl.constexpr, REACH: tl.constexpr,
    COUNTS: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    H: tl.constexpr, BLOCK_H: tl.constexpr, PACK: tl.constexpr, UNPACK: tl.constexpr, FACTORS: tl.constexpr,
    NUM_FACTORS: tl.constexpr,
) -> None:  # fmt: skip
    """One split of one list against all query heads of its group, as rows of one tile; without parts, all of it."""
    row, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    ids, num_entries = locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    common = common_of(row, leader, shared, shared_s, shared_k, num_rows, slot, num_kv_heads, C, REACH)
    span = span_of(num_entries - common, splits, BLOCK_N)
    begin = common + split * span
    end = tl.minimum(begin + span, num_entries)
    if part_out is not None and begin >= end:
        return
    now = tl.load(step + row // num_kv_heads)
    g = tl.arange(0, BLOCK_G)
    head, there = row * G + g, g < G
    lowest = tl.full([BLOCK_G], float("-inf"), tl.float32)
    if part_out is None and sink is not None:
        lowest = tl.load(sink + head % (num_kv_heads * G), mask=there, other=0.0).to(tl.float32)
    if part_out is None and before is not None:
        lowest = tl.load(before_lse + head, mask=there, other=0.0)
    q = queries_of(query, head, there, basis, len(scales), W, BLOCK_W, H, BLOCK_H, PACK, NUM_FACTORS)
    outs, top, total, count = see(
        begin, end, q, now, head, there, lowest, ids, key, value, position, expiry, scales, basis, row % num_kv_heads,
        logits, num_slots, scale, softcap, early, recent, False, COUNTS, C, PAGE, W, D, BLOCK_G, BLOCK_W, BLOCK_D,
        BLOCK_N, H, BLOCK_H, PACK, UNPACK, FACTORS, NUM_FACTORS,
    )  # fmt: skip
    if part_out is None:
        if (sink is not None) | (before is not None):
            total += tl.exp(lowest - top)
        if not COUNTS:
            count = now
        top, total = bounded(top, total)
        for i in tl.static_range(PACK):
            at, mine = part_of(head, there, i, D, BLOCK_D, PACK, NUM_FACTORS)
            done = outs[i]
            if before is not None:
                done += each_row(tl.exp(lowest - top), NUM_FACTORS)[:, None] * tl.load(
                    before + at, mask=mine, other=0.0
                )
            done = done / each_row(total, NUM_FACTORS)[:, None]
            tl.store(out + at, done.to(out.dtype.element_ty), mask=mine)
        keep_bar(head, there, top, total, count, lse, bar, tau)
    else:
        mine = head * parts + split
        keep_part(mine, there, outs, top, total, count, part_out, part_max, part_sum, part_count, D, NUM_FACTORS)
