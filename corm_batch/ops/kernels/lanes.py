"""A tile of scores, [BLOCK_N, BLOCK_R], as lanes hold it: four neighbouring threads share an entry's rows, and what
each says of its rows is the bits of one integer."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def by_lane(x: tl.tensor, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr) -> tl.tensor:
    """[BLOCK_N, BLOCK_R] as [BLOCK_N, BLOCK_R / 8, 4, 2]: a lane has two of every eight rows, as tensor cores deal."""
    return x.reshape(BLOCK_N, BLOCK_R // 8, 4, 2)


@triton.jit
def lane_sums(x: tl.tensor, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr) -> tl.tensor:
    """Sums [BLOCK_N, 4] over the rows of each lane."""
    return tl.sum(tl.sum(by_lane(x, BLOCK_N, BLOCK_R), 3), 1)


@triton.jit
def as_bits(x: tl.tensor, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr) -> tl.tensor:
    """Ones and zeros as bits [BLOCK_N, 4] int32, numbered as a lane's rows, oldest first."""
    pair, one = (1 << (2 * tl.arange(0, BLOCK_R // 8))).to(tl.float32), (1 + tl.arange(0, 2)).to(tl.float32)
    pairs = tl.sum(by_lane(x, BLOCK_N, BLOCK_R) * one[None, None, None, :], 3)
    return tl.sum(pairs * pair[None, :, None], 1).to(tl.int32)


@triton.jit
def unpack_bits(bits: tl.tensor, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr) -> tl.tensor:
    """The inverse of `as_bits`, [BLOCK_N, BLOCK_R] int8."""
    number = 2 * tl.arange(0, BLOCK_R // 8)[None, :, None, None] + tl.arange(0, 2)[None, None, None, :]
    return ((bits[:, None, :, None] >> number) & 1).to(tl.int8).reshape(BLOCK_N, BLOCK_R)


@triton.jit
def top_row(bits: tl.tensor) -> tl.tensor:
    """The row of each lane's highest bit, negative where there is none: read off a float's exponent."""
    number = (bits.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    return 8 * (number >> 1) + 2 * tl.arange(0, 4)[None, :] + (number & 1)


@triton.jit
def num_lows(
    missed: tl.tensor, birth: tl.tensor, end: tl.tensor, step: int, num_rows: int, BLOCK_R: tl.constexpr
) -> tl.tensor:
    """How many of the rows from `step` on see an entry and are no hit: summed over lanes, [BLOCK_N, 4] float32.

    The first lane has the rows that see it, and each is less its own hits: up to 16 bits, added up pair by pair.
    """
    seeing = tl.maximum(tl.minimum(end, step + num_rows - 1) + 1 - tl.maximum(birth, step), 0)
    x = ~missed & ((1 << (BLOCK_R // 4)) - 1)
    x = (x & 0x5555) + ((x >> 1) & 0x5555)
    x = (x & 0x3333) + ((x >> 2) & 0x3333)
    x = (x & 0x0F0F) + ((x >> 4) & 0x0F0F)
    hits = (x & 0x00FF) + (x >> 8)
    return (tl.where(tl.arange(0, 4)[None, :] == 0, seeing[:, None], 0) - hits).to(tl.float32)
