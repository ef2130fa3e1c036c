"""How kernels read and write keys and values in one form or another; see `ops.form.FormKernels`.

`which` is 0 for keys and 1 for values; a tile is [BLOCK_N, BLOCK_D], of which D columns count. What is masked reads as
0, and so does a factor that is stored.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_numbers(
    numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Numbers that stand for themselves."""
    column = tl.arange(0, BLOCK_D)[None, :]
    tile = tl.load(numbers + place[:, None] * D + column, mask=mask[:, None] & (column < D), other=0.0)  # [BN, D]
    return tile, tl.full([place.shape[0]], 1.0, tl.float32)


@triton.jit
def load_scaled(
    numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Numbers that an entry's scale multiplies."""
    tile, _ = load_numbers(numbers, scales, which, place, mask, D, BLOCK_D)
    return tile, tl.load(scales[which] + place, mask=mask, other=0.0)  # [BN]


@triton.jit
def save_numbers(
    tile: tl.tensor, numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Numbers that stand for themselves."""
    column = tl.arange(0, BLOCK_D)[None, :]
    tl.store(numbers + place[:, None] * D + column, tile, mask=mask[:, None] & (column < D))


@triton.jit
def save_fp8(
    tile: tl.tensor, numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """As `storage.fp8` encodes them; columns from D on are 0."""
    wide = tile.to(tl.float32)
    bits = tl.max(tl.abs(wide), axis=1).to(tl.int32, bitcast=True) + 0x17FFFF
    exponent = tl.minimum(tl.maximum((bits >> 23) - 8, 1), 246)
    scale, inverse = (
        (exponent << 23).to(tl.float32, bitcast=True),
        ((254 - exponent) << 23).to(tl.float32, bitcast=True),
    )
    number = tl.clamp(wide * inverse[:, None], -448.0, 448.0).to(numbers.dtype.element_ty)
    save_numbers(number, numbers, scales, which, place, mask, D, BLOCK_D)
    tl.store(scales[which] + place, scale, mask=mask)


@triton.jit
def save_int8(
    tile: tl.tensor, numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """As `storage.int8` encodes them; columns from D on are 0."""
    wide = tile.to(tl.float32)
    bits = tl.max(tl.abs(wide), axis=1).to(tl.int32, bitcast=True) + 0x1000
    # from 2^-100 to 2^127
    largest = tl.clamp((bits & -0x2000).to(tl.float32, bitcast=True), 7.888609052210118e-31, 1.7014118346046923e38)
    number = tl.clamp(wide * _inverse(largest, 127)[:, None], -127.0, 127.0)
    save_numbers(tl.floor(number + 0.5).to(tl.int32).to(tl.int8), numbers, scales, which, place, mask, D, BLOCK_D)
    tl.store(scales[which] + place, largest * (1 / 127), mask=mask)


@triton.jit
def load_int4(
    numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """As `storage.int4` decodes them; multiples of a quarter's largest number stay below 16 times a power of two, which
    is the entry's factor but for the seventh."""
    column = tl.arange(0, BLOCK_D // 2)[None, :]
    there = mask[:, None] & (column < D // 2)
    packed = tl.load(numbers + place[:, None] * (D // 2) + column, mask=there, other=0x88)  # [BN, D / 2]
    level = tl.interleave(packed & 15, packed >> 4).to(tl.float32) - 8.0  # [BN, D]
    pair, other = (
        tl.load(scales[2 * which] + place, mask=mask, other=0),
        tl.load(scales[2 * which + 1] + place, mask=mask, other=0),
    )  # [BN]
    first, second = ((pair & 0xFFFF) << 16).to(tl.float32, bitcast=True), (pair & -0x10000).to(tl.float32, bitcast=True)
    third, fourth = (
        ((other & 0xFFFF) << 16).to(tl.float32, bitcast=True),
        (other & -0x10000).to(tl.float32, bitcast=True),
    )
    largest = tl.maximum(tl.maximum(first, second), tl.maximum(third, fourth))
    exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
    inverse = (0x7F000000 - exponent).to(tl.float32, bitcast=True)
    quarter = tl.arange(0, BLOCK_D)[None, :] * 4 // D
    older = tl.where(quarter == 0, (first * inverse)[:, None], (second * inverse)[:, None])
    newer = tl.where(quarter == 2, (third * inverse)[:, None], (fourth * inverse)[:, None])
    return level * tl.where(quarter < 2, older, newer), exponent.to(tl.float32, bitcast=True) * (1 / 7)


@triton.jit
def save_int4(
    tile: tl.tensor, numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """As `storage.int4` encodes them; columns from D on are 0."""
    wide = tile.to(tl.float32)
    quarter = tl.arange(0, BLOCK_D)[None, :] * 4 // D
    first, second = _largest(wide, quarter == 0), _largest(wide, quarter == 1)
    third, fourth = _largest(wide, quarter == 2), _largest(wide, quarter == 3)
    tl.store(scales[2 * which] + place, _pair(first, second), mask=mask)
    tl.store(scales[2 * which + 1] + place, _pair(third, fourth), mask=mask)
    older = tl.where(quarter == 0, _inverse(first, 7)[:, None], _inverse(second, 7)[:, None])
    newer = tl.where(quarter == 2, _inverse(third, 7)[:, None], _inverse(fourth, 7)[:, None])
    number = tl.clamp(wide * tl.where(quarter < 2, older, newer), -7.0, 7.0)
    half = tl.floor(number + 8.5).to(tl.int32).to(tl.uint8)
    low, high = tl.split(half.reshape(tile.shape[0], BLOCK_D // 2, 2))
    save_numbers(low | high << 4, numbers, scales, which, place, mask, D // 2, BLOCK_D // 2)


@triton.jit
def _largest(wide: tl.tensor, mine: tl.tensor) -> tl.tensor:
    """The largest number of a part of each entry, [BN], with 8 significant bits, from 2^-100 to 2^120."""
    bits = tl.max(tl.where(mine, tl.abs(wide), 0.0), axis=1).to(tl.int32, bitcast=True) + 0x100
    return tl.clamp((bits & -0x10000).to(tl.float32, bitcast=True), 7.888609052210118e-31, 1.329227995784916e36)


@triton.jit
def _pair(first: tl.tensor, second: tl.tensor) -> tl.tensor:
    """Two numbers above 0 of 8 significant bits in an int32."""
    return first.to(tl.int32, bitcast=True) >> 16 | second.to(tl.int32, bitcast=True)


@triton.jit
def _inverse(largest: tl.tensor, MOST: tl.constexpr) -> tl.tensor:
    """How many steps one is, where the largest number is MOST of them; rounded as torch does it."""
    return tl.div_rn(tl.full(largest.shape, 1.0, tl.float32), largest) * MOST
