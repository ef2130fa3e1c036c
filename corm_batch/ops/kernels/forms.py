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
