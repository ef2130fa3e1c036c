"""Decode attention on a GPU, bound by how fast keys and values can be read.

    shared   (list, split) -> the same as the next one, for all rows of a group at once, of whole pages that they share
    attend   (list, split) -> over its share of a list: maximum, sum, weighted values; logits on the side for the vote
    merge    query head    -> output, softmax denominator, and the logit from which on a key counts as hit
    vote     (list, split) -> expiry and statistic of its share of a list; only when a policy wants votes

A list is one kv head of one row. Rows of a group begin with the same entries: their queries fill the tile of 16 that a
matrix product takes at least, and each of these entries is read once for all of them. How a list is split follows from
its length, on the device: grids and scratch depend on shapes alone, so nothing waits for the device and a CUDA graph
may hold it all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.decode import rows_at_once
from corm_batch.ops.form import Form
from corm_batch.ops.kernels.lists import common_of, locate, span_of
from corm_batch.ops.kernels.tile import queries_of, see
from corm_batch.ops.kernels.vote import vote
from corm_batch.ops.pages import Lists, Pages, narrowed
from corm_batch.ops.reduction import Reduction

PROGRAMS = 2048
"""Programs that keep a GPU of some hundred processors busy to the end, a few waves of them: fewer lists are split."""


class Blocks(NamedTuple):
    """How the attend kernel goes through a split."""

    size: int  # entries at a time
    num_warps: int
    num_stages: int  # page ids, then the entries behind them: 3 keep one block on its way, 5 keep two


def choose_blocks(head_dim: int, itemsize: int) -> Blocks:
    """16 KiB of keys and as much of values at a time, one such block on its way: the best of 14 settings on an H200."""
    return Blocks(max(16, min(128, 16384 // (triton.next_power_of_2(head_dim) * itemsize))), 4, 3)


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
    *,
    form: Form,
) -> Tensor:
    """As `ops.decode.decode_attention`, except that a row of slot -1 comes out as zeros.

    Args:
        pages: the pool, contiguous.
        lists: as there; the table's rows are contiguous. With a reduction there is scratch of 4 bytes for every query
            head and every slot the table is wide: give it no wider than the longest list.
        query_SHD, step_S, reduction, scale, softcap, sink_H, leader_S, form: as there.
    """
    (num_sequences, num_heads, head_dim), page_size = query_SHD.shape, pages.position.shape[1]
    num_kv_heads, num_slots = lists.table.shape[1], lists.table.shape[2] * page_size
    num_lists, group = num_sequences * num_kv_heads, num_heads // num_kv_heads
    blocks, at_once = choose_blocks(head_dim, pages.key.element_size()), rows_at_once(group)
    splits = choose_splits(num_lists, num_slots)
    shared_splits = 0 if leader_S is None else choose_splits(-(-num_lists // at_once), num_slots)
    query, out = _as_keys(query_SHD, lists), torch.empty_like(query_SHD, memory_format=torch.contiguous_format)
    rows = (*lists[:3], *lists.table.stride()[:2], *lists.length.stride(), num_kv_heads)
    common = leader_S, lists.shared, *lists.shared.stride(), num_sequences

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(num_sequences, num_heads, *shape, dtype=dtype, device=query.device)

    parts = splits + shared_splits
    part = scratch(parts, head_dim), scratch(parts), scratch(parts)
    logits, lse = (scratch(num_slots), scratch()) if reduction else (None, None)
    count = scratch(parts, dtype=torch.int32) if reduction and reduction.threshold == "cache" else None
    bar = scratch() if reduction and reduction.threshold else None
    sizes = {"G": group, "C": page_size, "D": head_dim, "BLOCK_N": blocks.size}
    sizes |= {"BLOCK_D": triton.next_power_of_2(head_dim), "REACH": reduction.reach if reduction else 0}
    tile = {"BLOCK_G": max(16, triton.next_power_of_2(group)), "LOAD": form.kernels().load}
    tile |= {"W": query.shape[-1], "BLOCK_W": max(16, triton.next_power_of_2(query.shape[-1]))}
    tile |= {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages}
    if leader_S is not None:
        _attend_shared[(num_lists, shared_splits)](
            query, step_S, *pages[:4], pages.scales, *rows, *common, *part, count, splits, scale, softcap,
            M=at_once, **sizes, **tile,
        )  # fmt: skip
    _attend[(num_lists, splits)](
        query, step_S, *pages[:4], pages.scales, *rows, *common, *part, count, parts, logits, num_slots, scale,
        softcap, **sizes, **tile,
    )  # fmt: skip
    _merge[(num_sequences * num_heads,)](
        out, lse, bar, step_S, sink_H, *rows, *common, *part, count, splits, shared_splits,
        reduction.tau if reduction else 1.0, BLOCK_S=16, **sizes,
    )  # fmt: skip
    if reduction:
        _launch_vote((num_lists, splits), pages, lists, step_S, rows, reduction, group, logits, num_slots, lse, bar)
    return out


def _as_keys(query_SHD: Tensor, lists: Lists) -> Tensor:
    """Queries as wide as the keys of their lists, contiguous: [S, H, W]."""
    if lists.channels is None:
        return query_SHD.contiguous()
    channels = lists.channels[lists.slot.clamp(min=0)]
    return narrowed(query_SHD, channels.repeat_interleave(query_SHD.shape[1] // channels.shape[1], dim=1))


def _launch_vote(
    grid: tuple[int, int], pages: Pages, lists: Lists, step_S: Tensor, rows: tuple[Any, ...], reduction: Reduction,
    group: int, *found: Tensor | int | None,
) -> None:  # fmt: skip
    """The vote of queries at these steps; what was found of them as the kernel takes it."""
    kind, page_size, reach = reduction.gathers, pages.position.shape[1], reduction.reach
    vote[grid](
        step_S, *pages[2:5], *rows, lists.shared, *lists.shared.stride(), *found, reduction.window, G=group,
        C=page_size, REACH=reach, POWER=kind.power, HEADS=kind.heads, ROWS=kind.rows, SINCE_HIT=kind.since_hit,
        BLOCK_N=max(512, triton.next_power_of_2(4 * reach)),
    )  # fmt: skip


@triton.jit
def _attend_shared(
    query: tl.tensor, step: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor,
    scales: tl.tuple, table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None, own_splits: int,
    scale: float, softcap: float | None,
    M: tl.constexpr, G: tl.constexpr, C: tl.constexpr, W: tl.constexpr, D: tl.constexpr, REACH: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, LOAD: tl.constexpr,
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
    q = queries_of(query, head, there, len(scales), W, BLOCK_W)  # [BG, W]
    see(
        head * (own_splits + splits) + own_splits + split, begin, end, q, now, head, there, ids,
        key, value, position, expiry, scales, None, 0, scale, softcap,
        part_out, part_max, part_sum, part_count, True, C, W, D, BLOCK_G, BLOCK_W, BLOCK_D, BLOCK_N,
        LOAD,
    )  # fmt: skip


@triton.jit
def _attend(
    query: tl.tensor, step: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor,
    scales: tl.tuple, table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor | None, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None, parts: int,
    logits: tl.tensor | None, num_slots: int, scale: float, softcap: float | None,
    G: tl.constexpr, C: tl.constexpr, W: tl.constexpr, D: tl.constexpr, REACH: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, LOAD: tl.constexpr,
) -> None:  # fmt: skip
    """One split of one list against all query heads of its group, as rows of one tile: at least 16, as MMA wants."""
    row, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    ids, num_entries = locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    common = common_of(row, leader, shared, shared_s, shared_k, num_rows, slot, num_kv_heads, C, REACH)
    span = span_of(num_entries - common, splits, BLOCK_N)
    begin = common + split * span
    end = tl.minimum(begin + span, num_entries)
    if begin >= end:
        return
    now = tl.load(step + row // num_kv_heads)
    g = tl.arange(0, BLOCK_G)
    head, there = row * G + g, g < G
    q = queries_of(query, head, there, len(scales), W, BLOCK_W)  # [BG, W]
    see(
        head * parts + split, begin, end, q, now, head, there, ids,
        key, value, position, expiry, scales, logits, num_slots, scale, softcap,
        part_out, part_max, part_sum, part_count, False, C, W, D, BLOCK_G, BLOCK_W, BLOCK_D, BLOCK_N,
        LOAD,
    )  # fmt: skip


@triton.jit
def _merge(
    out: tl.tensor, lse: tl.tensor | None, bar: tl.tensor | None, step: tl.tensor, sink: tl.tensor | None,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor | None, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    splits: int, shared_splits: int, tau: float,
    G: tl.constexpr, C: tl.constexpr, D: tl.constexpr, REACH: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """The splits of one query head; its bar is the logit that tau / n of the softmax takes."""
    head = tl.program_id(0).to(tl.int64)
    row = head // G
    _, num_entries = locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    common = common_of(row, leader, shared, shared_s, shared_k, num_rows, slot, num_kv_heads, C, REACH)
    used = tl.cdiv(num_entries - common, span_of(num_entries - common, splits, BLOCK_N))
    used_by_all = used
    if leader is not None:
        used_by_all += tl.cdiv(common, span_of(common, shared_splits, BLOCK_N))
    n, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    top, total = float("-inf"), 0.0
    if sink is not None:
        top, total = tl.load(sink + head % (num_kv_heads * G)).to(tl.float32), 1.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    count = 0
    for start in range(0, used_by_all, BLOCK_S):
        index = start + n
        there = index < used_by_all
        mine = head * (splits + shared_splits) + tl.where(index < used, index, splits + index - used)
        highest = tl.load(part_max + mine, mask=there, other=float("-inf"))  # [BS]
        higher = tl.maximum(top, tl.max(highest, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        factor, shrink = tl.exp(highest - base), tl.exp(top - base)
        total = total * shrink + tl.sum(factor * tl.load(part_sum + mine, mask=there, other=0.0), axis=0)
        read = there[:, None] & (d < D)[None, :]
        part = tl.load(part_out + mine[:, None] * D + d[None, :], mask=read, other=0.0)  # [BS, D]
        acc, top = acc * shrink + tl.sum(part * factor[:, None], axis=0), higher
        if part_count is not None:
            count += tl.sum(tl.load(part_count + mine, mask=there, other=0), axis=0)
    top, total = tl.where(total > 0, top, 0.0), tl.where(total > 0, total, 1.0)  # a query may see nothing
    tl.store(out + head * D + d, (acc / total).to(out.dtype.element_ty), mask=d < D)
    if lse is not None:
        log_total = top + tl.log(total)
        tl.store(lse + head, log_total)
        if bar is not None:
            if part_count is None:
                count = tl.load(step + head // (num_kv_heads * G))
            tl.store(bar + head, log_total + tl.log(tau / count))
