"""The highest ranks on a GPU, without sorting: the lowest rank that stays is found two bits at a time, by counting.

A head's ranks differ in few of their 64 bits: pairs of bits in which all candidates agree are not counted for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from corm_batch.ops import top as plain

_COUNT_BITS = tl.constexpr(21)
"""Three counts of entries share 64 bits, so that one sum over the tile makes all of them."""


def top_entries(rank_KN: Tensor, position_KN: Tensor, candidate_KN: Tensor, most: int | Tensor) -> Tensor:
    """`ops.top.top_entries`; from 2^21 entries a head on, which no count here holds, the definition itself."""
    num_heads, num_entries = candidate_KN.shape
    if num_entries >> _COUNT_BITS.value:
        return plain.top_entries(rank_KN, position_KN, candidate_KN, most)
    rank, position = (column if column.stride(1) == 1 else column.contiguous() for column in (rank_KN, position_KN))
    candidate = candidate_KN.contiguous()
    mosts, most = (None, most) if isinstance(most, int) else (most.int().contiguous(), 0)
    top_KN = torch.empty_like(candidate)
    tile = min(max(1024, triton.next_power_of_2(num_entries)), 8192)
    _top_kernel[(num_heads,)](
        rank, position, rank.stride(0), position.stride(0), candidate, top_KN, num_entries, mosts, most,
        TILE=tile, ONE_TILE=num_entries <= tile, num_warps=max(4, tile // 512),
    )  # fmt: skip
    return top_KN


@triton.jit
def _either(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Bits set in one of them, for a reduction."""
    return a | b


@triton.jit
def _both(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """Bits set in both, for a reduction."""
    return a & b


@triton.jit
def _load(
    ranks: tl.tensor, positions: tl.tensor, candidates: tl.tensor, index: tl.tensor, num_entries: int
) -> tuple[tl.tensor, tl.tensor]:
    """Candidates' places in the order of `ops.top.order_entries`, the lowest number for others; which these are."""
    there = tl.load(candidates + index, mask=index < num_entries, other=0).to(tl.int1)  # [TILE]
    rank = tl.load(ranks + index, mask=there, other=0)  # [TILE]
    if rank.dtype == tl.float32:
        rank = tl.where(rank == rank, tl.where(rank == 0.0, 0.0, rank), float("-inf"))
        rank = rank.to(tl.int32, bitcast=True)
        rank = rank ^ ((rank >> 31) & 0x7FFFFFFF)
    order = (rank.to(tl.int64) << 31) + tl.load(positions + index, mask=there, other=0)  # [TILE]
    return tl.where(there, order, -(1 << 63)), there


@triton.jit
def _reach(rank: tl.tensor, bound: tl.tensor, one: tl.tensor, shift: int) -> tl.tensor:
    """1 in each of three counts whose digit a place in the order reaches."""
    reach = (rank >= (bound ^ (one << shift))).to(tl.int64)
    reach += (rank >= (bound ^ (one * 2 << shift))).to(tl.int64) << _COUNT_BITS
    return reach + ((rank >= (bound ^ (one * 3 << shift))).to(tl.int64) << 2 * _COUNT_BITS)


@triton.jit(do_not_specialize=["rank_k", "position_k", "num_entries", "most"])
def _top_kernel(
    ranks: tl.tensor, positions: tl.tensor, rank_k: int, position_k: int, candidates: tl.tensor, tops: tl.tensor,
    num_entries: int, mosts: tl.tensor | None, most: int,
    TILE: tl.constexpr, ONE_TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Program: head. `bound` grows to the largest number that at least `most` ranks reach, if so many there are.

    With its highest bit flipped a signed number counts up from 0 as an unsigned one does; `bound` begins there, and
    its bits are set by xor, so that signed comparisons serve.
    """
    head = tl.program_id(0).to(tl.int64)
    if mosts is not None:
        most = tl.load(mosts + head)
    ranks, positions = ranks + head * rank_k, positions + head * position_k
    candidates, tops = candidates + head * num_entries, tops + head * num_entries
    one, offset = tl.full([], 1, tl.int64), tl.arange(0, TILE)
    lowest, mask = one << 63, (one << _COUNT_BITS) - 1
    some, every = tl.zeros([TILE], tl.int64), tl.full([TILE], -1, tl.int64)
    for start in range(0, num_entries, TILE):
        rank, there = _load(ranks, positions, candidates, start + offset, num_entries)
        some |= tl.where(there, rank ^ lowest, 0)
        every &= tl.where(there, rank ^ lowest, -1)
    common = tl.reduce(every, 0, _both)
    varying = tl.reduce(some, 0, _either) ^ common
    rank, there = _load(ranks, positions, candidates, offset, num_entries)
    bound = lowest
    for turn in range(32):
        shift = 62 - 2 * turn
        if (varying >> shift) & 3 != 0:
            reach = _reach(rank, bound, one, shift)
            if not ONE_TILE:
                for start in range(TILE, num_entries, TILE):
                    further, _ = _load(ranks, positions, candidates, start + offset, num_entries)
                    reach += _reach(further, bound, one, shift)
            counts = tl.sum(reach)
            digit = ((counts & mask) >= most).to(tl.int64) + ((counts >> _COUNT_BITS & mask) >= most)
            bound ^= digit + ((counts >> 2 * _COUNT_BITS) >= most) << shift
        else:
            bound ^= common & (one * 3 << shift)
    for start in range(0, num_entries, TILE):
        rank, there = _load(ranks, positions, candidates, start + offset, num_entries)
        tl.store(tops + start + offset, there & (rank >= bound) & (most > 0), mask=start + offset < num_entries)
