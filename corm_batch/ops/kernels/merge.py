"""What splits of lists come to in a decode step, and put together, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.kernels.lists import common_of, locate, span_of
from corm_batch.ops.kernels.tile import part_of


@triton.jit
def merge(
    out: tl.tensor, lse: tl.tensor | None, bar: tl.tensor | None, step: tl.tensor, sink: tl.tensor | None,
    before: tl.tensor | None, before_lse: tl.tensor | None, tau: float,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    leader: tl.tensor | None, shared: tl.tensor, shared_s: int, shared_k: int, num_rows: int,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    splits: int, shared_splits: int,
    G: tl.constexpr, C: tl.constexpr, D: tl.constexpr, REACH: tl.constexpr, COUNTS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_N: tl.constexpr,
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
    if before is not None:
        top, total = tl.load(before_lse + head), 1.0
        acc += tl.load(before + head * D + d, mask=d < D, other=0.0)
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
        if COUNTS:
            count += tl.sum(tl.load(part_count + mine, mask=there, other=0), axis=0)
    if not COUNTS:
        count = tl.load(step + head // (num_kv_heads * G))
    top, total = bounded(top, total)
    tl.store(out + head * D + d, (acc / total).to(out.dtype.element_ty), mask=d < D)
    keep_bar(head, head >= 0, top, total, count, lse, bar, tau)


@triton.jit
def bounded(top: tl.tensor, total: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Highest score and sum of a query, which may have seen nothing."""
    return tl.where(total > 0, top, 0.0), tl.where(total > 0, total, 1.0)


@triton.jit
def keep_bar(
    head: tl.tensor, there: tl.tensor, top: tl.tensor, total: tl.tensor, count: tl.tensor, lse: tl.tensor | None,
    bar: tl.tensor | None, tau: float,
) -> None:  # fmt: skip
    """What a vote asks of a query: the softmax's denominator, and the logit that tau / count of the softmax takes."""
    if lse is not None:
        log_total = top + tl.log(total)
        tl.store(lse + head, log_total, mask=there)
        if bar is not None:
            tl.store(bar + head, log_total + tl.log(tau / count), mask=there)


@triton.jit
def keep_part(
    mine: tl.tensor, there: tl.tensor, outs: tl.tuple, top: tl.tensor, total: tl.tensor, count: tl.tensor,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    D: tl.constexpr, NUM_FACTORS: tl.constexpr,
) -> None:  # fmt: skip
    """What a split came to, for the merge."""
    for i in tl.static_range(len(outs)):
        at, ours = part_of(mine, there, i, D, outs[i].shape[1], len(outs), NUM_FACTORS)
        tl.store(part_out + at, outs[i], mask=ours)
    tl.store(part_max + mine, top, mask=there)
    tl.store(part_sum + mine, total, mask=there)
    if part_count is not None:
        tl.store(part_count + mine, count, mask=there)
