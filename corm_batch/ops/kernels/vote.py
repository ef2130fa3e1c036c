"""The vote of a decode step in Triton: expiry and statistic of what is each list's own."""

from __future__ import annotations

import triton
import triton.language as tl

from corm_batch.ops.kernels.lists import locate, place_of
from corm_batch.ops.kernels.statistics import averaged, gathered, joined


@triton.jit
def _later(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """The greater, for a scan."""
    return tl.maximum(a, b)


@triton.jit
def vote(
    step: tl.tensor, position: tl.tensor, expiry: tl.tensor, statistic: tl.tensor,
    table: tl.tensor, length: tl.tensor, slot: tl.tensor,
    table_s: int, table_k: int, length_s: int, length_k: int, num_kv_heads: int,
    shared: tl.tensor, shared_s: int, shared_k: int,
    logits: tl.tensor, num_slots: int, lse: tl.tensor, bar: tl.tensor | None, window: int,
    G: tl.constexpr, C: tl.constexpr, PAGE: tl.constexpr, REACH: tl.constexpr, POWER: tl.constexpr, HEADS: tl.constexpr,
    ROWS: tl.constexpr, SINCE_HIT: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """One block of what is one list's own, with REACH entries on either side of it."""
    row, inner = tl.program_id(0).to(tl.int64), BLOCK_N - 2 * REACH
    ids, num_entries = locate(row, table, length, slot, table_s, table_k, length_s, length_k, num_kv_heads)
    now, where = tl.load(step + row // num_kv_heads), tl.load(slot + row // num_kv_heads)
    own = tl.load(shared + where * shared_s + row % num_kv_heads * shared_k, mask=where >= 0, other=0)
    start = own + tl.program_id(1) * inner
    if start >= num_entries:
        return
    index = start - REACH + tl.arange(0, BLOCK_N)
    inside = (index >= 0) & (index < num_entries)
    place = place_of(tl.load(ids + index // C, mask=inside, other=0), index % C, PAGE)  # [BN]
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
