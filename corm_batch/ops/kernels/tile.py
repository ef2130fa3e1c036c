"""Entries of a list in a decode step, in Triton: seen by the queries that fill a tile of a matrix product."""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.kernels.lists import place_of


@triton.jit
def see(
    mine: tl.tensor, begin: tl.tensor, end: tl.tensor, q: tl.tensor, now: tl.tensor, head: tl.tensor, there: tl.tensor,
    ids: tl.tensor, key: tl.tensor, value: tl.tensor, position: tl.tensor, expiry: tl.tensor, scales: tl.tuple,
    logits: tl.tensor | None, num_slots: int, scale: float, softcap: float | None,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None, STEPS: tl.constexpr,
    C: tl.constexpr, W: tl.constexpr, D: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, LOAD: tl.constexpr,
) -> None:  # fmt: skip
    """Entries from `begin` to `end`, seen by the queries of some heads at step `now`, with STEPS [BG] steps, one for
    each; what they come to is kept at `mine`, for the merge."""
    n = tl.arange(0, BLOCK_N)
    top = tl.full([BLOCK_G], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_G], tl.float32)
    out = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    count = tl.zeros([BLOCK_G], tl.int32)
    for start in range(begin, end, BLOCK_N):
        index = start + n
        out, top, total, count = _visit(
            out, top, total, count, q, now, head, there, ids, index, index < end, key, value, position, expiry, scales,
            logits, num_slots, scale, softcap, part_count is not None, STEPS, C, W, D, BLOCK_W, BLOCK_D, LOAD,
        )  # fmt: skip
    _keep_part(mine, there, out, top, total, count, part_out, part_max, part_sum, part_count, D, BLOCK_D)


@triton.jit
def _visit(
    out: tl.tensor, top: tl.tensor, total: tl.tensor, count: tl.tensor, q: tl.tensor, now: tl.tensor,
    head: tl.tensor, there: tl.tensor, ids: tl.tensor, index: tl.tensor, inside: tl.tensor, key: tl.tensor,
    value: tl.tensor, position: tl.tensor, expiry: tl.tensor, scales: tl.tuple, logits: tl.tensor | None,
    num_slots: int, scale: float, softcap: float | None, COUNTS: tl.constexpr, STEPS: tl.constexpr,
    C: tl.constexpr, W: tl.constexpr, D: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr,
    LOAD: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """One block of them."""
    place = place_of(ids, index, inside, C)
    k, factor = LOAD(key, scales, 0, place, inside, W, BLOCK_W)  # [BN, W], [BN]
    born = tl.load(position + place, mask=inside, other=0)  # [BN]
    last = tl.load(expiry + place, mask=inside, other=0)  # [BN]
    s = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee") * (factor * scale)[None, :]
    if softcap is not None:
        s = softcap - 2 * softcap / (tl.exp(2 * s / softcap) + 1)  # softcap * tanh(s / softcap)
    if STEPS:
        visible = inside[None, :] & (born[None, :] <= now[:, None]) & (now[:, None] <= last[None, :])
        s = tl.where(visible, s, float("-inf"))
    else:
        visible = inside & (born <= now) & (now <= last)
        s = tl.where(visible[None, :], s, float("-inf"))
    if logits is not None:
        tl.store(logits + head[:, None] * num_slots + index[None, :], s, mask=there[:, None] & inside[None, :])
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
    if COUNTS:
        count += tl.sum((s > float("-inf")).to(tl.int32), axis=1)
    return out, top, total, count


@triton.jit
def queries_of(
    query: tl.tensor, head: tl.tensor, there: tl.tensor, num_scales: tl.constexpr, W: tl.constexpr,
    BLOCK_W: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The queries of some heads as rows of one tile, in the type of its products: [BG, W]."""
    w = tl.arange(0, BLOCK_W)
    q = tl.load(query + head[:, None] * W + w[None, :], mask=there[:, None] & (w < W)[None, :], other=0.0)
    if num_scales > 0 and q.dtype == tl.bfloat16:
        # 8 bits become float16 in one instruction for two numbers, and bfloat16 in three; a query fits both.
        q = tl.clamp(q.to(tl.float32), -65504.0, 65504.0).to(tl.float16)
    return q


@triton.jit
def _keep_part(
    mine: tl.tensor, there: tl.tensor, out: tl.tensor, top: tl.tensor, total: tl.tensor, count: tl.tensor,
    part_out: tl.tensor, part_max: tl.tensor, part_sum: tl.tensor, part_count: tl.tensor | None,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """What a split came to, for the merge."""
    d = tl.arange(0, BLOCK_D)
    tl.store(part_out + mine[:, None] * D + d[None, :], out, mask=there[:, None] & (d < D)[None, :])
    tl.store(part_max + mine, top, mask=there)
    tl.store(part_sum + mine, total, mask=there)
    if part_count is not None:
        tl.store(part_count + mine, count, mask=there)
