"""Decode attention on a GPU, bound by how fast keys and values can be read.

    attend   (list, split) -> over its share of a list: maximum, sum, weighted values; logits on the side for the vote
    merge    query head    -> output, softmax denominator, and the logit from which on a key counts as hit
    vote     (list, split) -> expiry and statistic of its share of a list; only when a policy wants votes

A list is one kv head of one row. How it is split follows from its length, on the device: grids and scratch depend on
shapes alone, so nothing waits for the device and a CUDA graph may hold it all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.kernels.statistics import averaged, gathered, joined
from corm_batch.ops.pages import Lists, Pages
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
    *,
    form: Form,
) -> Tensor:
    """As `ops.decode.decode_attention`, except that a row of slot -1 comes out as zeros.

    Args:
        pages: the pool, contiguous.
        lists: as there; the table's rows are contiguous. With a reduction there is scratch of 4 bytes for every query
            head and every slot the table is wide: give it no wider than the longest list.
        query_SHD, step_S, reduction, scale, softcap, sink_H, form: as there.

    Returns:
        [S, H, D] in the query's dtype.
    """
    (num_sequences, num_heads, head_dim), page_size = query_SHD.shape, pages.position.shape[1]
    num_kv_heads, num_slots = lists.table.shape[1], lists.table.shape[2] * page_size
    num_lists = num_sequences * num_kv_heads
    blocks = choose_blocks(head_dim, pages.key.element_size())
    splits = choose_splits(num_lists, num_slots)
    query, out = query_SHD.contiguous(), torch.empty_like(query_SHD, memory_format=torch.contiguous_format)
    rows = (*lists[:3], *lists.table.stride()[:2], *lists.length.stride(), num_kv_heads)

    def scratch(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(num_sequences, num_heads, *shape, dtype=dtype, device=query.device)

    part = scratch(splits, head_dim), scratch(splits), scratch(splits)
    hits = reduction is not None and reduction.threshold is not None
    logits = scratch(num_slots) if reduction else None
    count = scratch(splits, dtype=torch.int32) if reduction and reduction.threshold == "cache" else None
    lse, bar = scratch() if reduction else None, scratch() if hits else None
    group, block_d = num_heads // num_kv_heads, triton.next_power_of_2(head_dim)
    _attend[(num_lists, splits)](
        query, step_S, *pages[:4], pages.scales, *rows, *part, count, logits, num_slots, scale, softcap,
        G=group, C=page_size, D=head_dim, BLOCK_G=max(16, triton.next_power_of_2(group)), BLOCK_D=block_d,
        BLOCK_N=blocks.size, LOAD=form.kernels().load, num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    _merge[(num_sequences * num_heads,)](
        out, lse, bar, step_S, sink_H, *rows, *part, count, splits, reduction.tau if reduction else 1.0,
        G=group, D=head_dim, BLOCK_D=block_d, BLOCK_S=16, BLOCK_N=blocks.size,
    )  # fmt: skip
    if reduction:
        kind = reduction.gathers
        _vote[(num_lists, splits)](
            step_S, *pages[2:5], *rows, lists.shared, *lists.shared.stride(), logits, num_slots, lse, bar,
            reduction.window, G=group, C=page_size, REACH=reduction.reach, POWER=kind.power, HEADS=kind.heads,
            ROWS=kind.rows, SINCE_HIT=kind.since_hit, BLOCK_N=max(512, triton.next_power_of_2(4 * reduction.reach)),
        )  # fmt: skip
    return out


@triton.jit
def _locate(
    row: tl.tensor, table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """The page ids of list `row` = s * K + k and its length; what ends in _s or _k is a stride. -1 has no entries."""
    where, k = tl.load(slot + row // num_kv_heads), row % num_kv_heads
    num_entries = tl.load(length + where * length_s + k * length_k, mask=where >= 0, other=0)
    return table + where * table_s + k * table_k, num_entries


@triton.jit
def _place(ids: tl.tensor, index: tl.tensor, inside: tl.tensor, C: tl.constexpr) -> tl.tensor:
    """Where in the pool the entries at `index` of a list are, int64: too many for 32 bits once times D."""
    page = tl.load(ids + index // C, mask=inside, other=0)  # [BN]
    return page.to(tl.int64) * C + index % C


@triton.jit
def _span(num_entries: tl.tensor, splits: tl.tensor, BLOCK_N: tl.constexpr) -> tl.tensor:
    """Entries of one split, a multiple of BLOCK_N and never 0: a short list has fewer splits than others."""
    return tl.maximum(tl.cdiv(tl.cdiv(num_entries, splits), BLOCK_N), 1) * BLOCK_N


@triton.jit
def _attend(
    query: tl.tensor, step: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor,
    scales: tl.tuple, table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    logits: tl.tensor | None, num_slots: int, scale: float, softcap: float | None,
    G: tl.constexpr, C: tl.constexpr, D: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, LOAD: tl.constexpr,
) -> None:  # fmt: skip
    """One split of one list against all query heads of its group, as rows of one tile: at least 16, as MMA wants."""
    row, split, splits = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    ids, num_entries = _locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    span = _span(num_entries, splits, BLOCK_N)
    begin, end = split * span, tl.minimum(split * span + span, num_entries)
    if begin >= end:
        return
    now = tl.load(step + row // num_kv_heads)
    g, d, n = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    head = row * G + g
    q = tl.load(query + head[:, None] * D + d[None, :], mask=(g < G)[:, None] & (d < D)[None, :], other=0.0)  # [BG, D]
    if len(scales) > 0 and q.dtype == tl.bfloat16:
        # 8 bits become float16 in one instruction for two numbers, and bfloat16 in three; a query fits both.
        q = tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    out = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    count = tl.zeros([BLOCK_G], tl.int32)
    for start in range(begin, end, BLOCK_N):
        index = start + n
        inside = index < end
        place = _place(ids, index, inside, C)
        k, factor = LOAD(key, scales, 0, place, inside, D, BLOCK_D)  # [BN, D], [BN]
        born = tl.load(position + place, mask=inside, other=0)  # [BN]
        last = tl.load(expiry + place, mask=inside, other=0)  # [BN]
        visible = inside & (born <= now) & (now <= last)
        s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * (factor * scale)[None, :]
        if softcap is not None:
            s = softcap - 2 * softcap / (tl.exp(2 * s / softcap) + 1)  # softcap * tanh(s / softcap)
        s = tl.where(visible[None, :], s, float("-inf"))
        if logits is not None:
            tl.store(logits + head[:, None] * num_slots + index[None, :], s, mask=(g < G)[:, None] & inside[None, :])
        higher = tl.maximum(top, tl.max(s, axis=1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing visible yet: -inf - -inf is no number
        p, shrink = tl.exp(s - base[:, None]), tl.exp(top - base)
        v, factor = LOAD(value, scales, 1, place, inside, D, BLOCK_D)  # [BN, D], [BN]
        v, out = v.to(q.dtype), out * shrink[:, None]
        if len(scales) > 0:  # relative to the block's largest factor: float16 has no number for a small one
            most = tl.max(factor)
            out += tl.dot((p * (factor / most)[None, :]).to(q.dtype), v, input_precision="ieee") * most
        else:
            out = tl.dot(p.to(q.dtype), v, out, input_precision="ieee")
        total, top = total * shrink + tl.sum(p, axis=1), higher
        if part_count is not None:
            count += tl.sum((s > float("-inf")).to(tl.int32), axis=1)
    mine = head * splits + split
    tl.store(part_out + mine[:, None] * D + d[None, :], out, mask=(g < G)[:, None] & (d < D)[None, :])
    tl.store(part_max + mine, top, mask=g < G)
    tl.store(part_sum + mine, total, mask=g < G)
    if part_count is not None:
        tl.store(part_count + mine, count, mask=g < G)


@triton.jit
def _merge(
    out: tl.tensor, lse: tl.tensor | None, bar: tl.tensor | None, step: tl.tensor, sink: tl.tensor | None,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    splits: int, tau: float,
    G: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """The splits of one query head; its bar is the logit that tau / n of the softmax takes."""
    head = tl.program_id(0).to(tl.int64)
    _, num_entries = _locate(head // G, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    used = tl.cdiv(num_entries, _span(num_entries, splits, BLOCK_N))
    n, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    top, total = float("-inf"), 0.0
    if sink is not None:
        top, total = tl.load(sink + head % (num_kv_heads * G)).to(tl.float32), 1.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    count = 0
    for start in range(0, used, BLOCK_S):
        index = start + n
        mine = head * splits + index
        highest = tl.load(part_max + mine, mask=index < used, other=float("-inf"))  # [BS]
        higher = tl.maximum(top, tl.max(highest, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        factor, shrink = tl.exp(highest - base), tl.exp(top - base)
        total = total * shrink + tl.sum(factor * tl.load(part_sum + mine, mask=index < used, other=0.0), axis=0)
        read = (index < used)[:, None] & (d < D)[None, :]
        part = tl.load(part_out + mine[:, None] * D + d[None, :], mask=read, other=0.0)  # [BS, D]
        acc, top = acc * shrink + tl.sum(part * factor[:, None], axis=0), higher
        if part_count is not None:
            count += tl.sum(tl.load(part_count + mine, mask=index < used, other=0), axis=0)
    top, total = tl.where(total > 0, top, 0.0), tl.where(total > 0, total, 1.0)  # a query may see nothing
    tl.store(out + head * D + d, (acc / total).to(out.dtype.element_ty), mask=d < D)
    if lse is not None:
        log_total = top + tl.log(total)
        tl.store(lse + head, log_total)
        if bar is not None:
            if part_count is None:
                count = tl.load(step + head // (num_kv_heads * G))
            tl.store(bar + head, log_total + tl.log(tau / count))


@triton.jit
def _later(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The greater, for a scan."""
    return tl.maximum(a, b)


@triton.jit
def _vote(
    step: tl.tensor, position: tl.tensor, expiry: tl.tensor, statistic: tl.tensor,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    shared: tl.tensor, shared_s: int, shared_k: int,
    logits: tl.tensor, num_slots: int, lse: tl.tensor, bar: tl.tensor | None, window: int,
    G: tl.constexpr, C: tl.constexpr, REACH: tl.constexpr, POWER: tl.constexpr, HEADS: tl.constexpr,
    ROWS: tl.constexpr, SINCE_HIT: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """One split of what is one list's own, here block by block in turn, REACH entries on either side of each."""
    row, inner = tl.program_id(0).to(tl.int64), BLOCK_N - 2 * REACH
    ids, num_entries = _locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    now, where = tl.load(step + row // num_kv_heads), tl.load(slot + row // num_kv_heads)
    own = tl.load(shared + where * shared_s + row % num_kv_heads * shared_k, mask=where >= 0, other=0)
    for start in range(own + tl.program_id(1) * inner, num_entries, tl.num_programs(1) * inner):
        index = start - REACH + tl.arange(0, BLOCK_N)
        inside = (index >= 0) & (index < num_entries)
        place = _place(ids, index, inside, C)
        weight, hit = tl.zeros([BLOCK_N], tl.float32), index < 0
        visible = inside
        for head in range(row * G, row * G + G):
            s = tl.load(logits + head * num_slots + index, mask=inside, other=float("-inf"))  # [BN]
            if POWER is not None:
                weight = joined(weight, tl.exp(s - tl.load(lse + head)), G, POWER, HEADS)
            visible = s > float("-inf")
            if bar is not None:
                hit = hit | (s >= tl.load(bar + head))
        hit = hit & visible
        if bar is not None and REACH > 0:
            born = tl.load(position + place, mask=inside, other=0)  # a list's entries are in order of position
            before = tl.associative_scan(tl.where(hit, born, -(1 << 30)), 0, _later)
            after = -tl.associative_scan(tl.where(hit, -born, -(1 << 30)), 0, _later, reverse=True)
            hit = ((born - before <= REACH) | (after - born <= REACH)) & visible
        mine = inside & (index >= start) & (index < start + inner)
        found = tl.where(visible & ~hit, 1.0, 0.0) if POWER is None else averaged(weight, G, HEADS)
        new = gathered(tl.load(statistic + place, mask=mine, other=0.0), found, ROWS)  # [BN]
        if SINCE_HIT:
            new = tl.where(hit, 0.0, new)
        tl.store(statistic + place, new, mask=mine)
        if bar is not None:
            last = tl.load(expiry + place, mask=mine & hit, other=0)  # [BN]
            tl.store(expiry + place, tl.maximum(last, now + window), mask=mine & hit)
