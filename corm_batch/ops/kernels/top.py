"""The highest ranks on a GPU, without sorting: the lowest rank that stays is found two bits at a time, by counting."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def top_entries(rank_KN: Tensor, count: int) -> Tensor:
    """`ops.top.top_entries`."""
    num_heads, num_entries = rank_KN.shape
    rank = rank_KN.contiguous()
    top_KN = torch.empty_like(rank, dtype=torch.bool)
    tile = min(max(1024, triton.next_power_of_2(num_entries)), 8192)
    _top_kernel[(num_heads,)](rank, top_KN, num_entries, count, TILE=tile, num_warps=max(4, tile // 512))
    return top_KN


@triton.jit(do_not_specialize=["num_entries", "count"])
def _top_kernel(ranks: tl.tensor, tops: tl.tensor, num_entries: int, count: int, TILE: tl.constexpr) -> None:
    """Program: head. `bound` grows to the largest number that at least `count` ranks reach, if so many there are.

    With its highest bit flipped a signed number counts up from 0 as an unsigned one does; `bound` begins there, and
    its bits are set by xor, so that signed comparisons serve.
    """
    head = tl.program_id(0).to(tl.int64)
    ranks += head * num_entries
    one = tl.full([], 1, tl.int64)
    lowest = one << 63
    bound = lowest
    for turn in range(32):
        shift = 62 - 2 * turn
        reach_1, reach_2, reach_3 = (tl.zeros([TILE], tl.int32),) * 3
        for start in range(0, num_entries, TILE):
            index = start + tl.arange(0, TILE)
            rank = tl.load(ranks + index, mask=index < num_entries, other=lowest)
            reach_1 += (rank >= (bound ^ (one << shift))).to(tl.int32)
            reach_2 += (rank >= (bound ^ (one * 2 << shift))).to(tl.int32)
            reach_3 += (rank >= (bound ^ (one * 3 << shift))).to(tl.int32)
        digit = (tl.sum(reach_1) >= count).to(tl.int64) + (tl.sum(reach_2) >= count) + (tl.sum(reach_3) >= count)
        bound ^= digit << shift
    for start in range(0, num_entries, TILE):
        index = start + tl.arange(0, TILE)
        rank = tl.load(ranks + index, mask=index < num_entries, other=lowest)
        chosen = (rank >= bound) & (rank != lowest)
        tl.store(tops + head * num_entries + index, chosen, mask=index < num_entries)
