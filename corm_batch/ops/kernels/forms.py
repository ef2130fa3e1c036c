"""How kernels read and write keys and values in one form or another; see `ops.form.FormKernels`.

`which` is 0 for keys and 1 for values; a tile is [BLOCK_N, BLOCK_D], of which D columns count. What is masked reads as
words and factors of 0. Where Triton is interpreted numbers are unpacked by the same arithmetic without instructions.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

_IN_PTX = tl.constexpr(not knobs.runtime.interpret)
"""Whether two words at a time are unpacked by instructions that Triton has no words for."""


def numbers_a_word(value: Tensor, head_dim: int) -> int:
    """How many numbers of values of this width a word of their pages has, see `load_words`."""
    return head_dim // (value.shape[-1] // 2 if value.element_size() == 1 else value.shape[-1])


@triton.jit
def load_words(
    numbers: tl.tensor, page: tl.tensor, within: tl.tensor, mask: tl.tensor, WORDS: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """What pages of PAGE bytes have of entries [BN], so many words each, as [BN, BLOCK]: bytes two at a time as int16,
    wider numbers as they are. The place within a page is apart from the page, which alone changes from block to
    block."""
    if numbers.dtype.element_ty.primitive_bitwidth == 8:
        numbers = numbers.to(tl.pointer_type(tl.int16), bitcast=True)
    column = tl.arange(0, BLOCK)[None, :]
    at = numbers + within[:, None] * WORDS + column
    words = PAGE * 8 // numbers.dtype.element_ty.primitive_bitwidth
    return tl.load(at + page.to(tl.int64)[:, None] * words, mask=mask[:, None] & (column < WORDS), other=0)


@triton.jit
def load_decoded(
    numbers: tl.tensor, factors: tl.tuple, page: tl.tensor, within: tl.tensor, mask: tl.tensor, D: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_D: tl.constexpr, PACK: tl.constexpr, UNPACK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Keys or values as their form decodes them, [BN, BLOCK_D] float32."""
    parts = UNPACK(load_words(numbers, page, within, mask, D // PACK, PAGE, BLOCK_D // PACK), tl.float32)
    if PACK == 4:
        tile = tl.interleave(tl.interleave(parts[0], parts[2]), tl.interleave(parts[1], parts[3]))
    elif PACK == 2:
        tile = tl.interleave(parts[0], parts[1])
    else:
        tile = parts[0]
    part, factor = tl.arange(0, BLOCK_D)[None, :] * len(factors) // D, factors[0][:, None]
    for i in tl.static_range(1, len(factors)):
        factor = tl.where(part < i, factor, factors[i][:, None])
    return tile * factor


@triton.jit
def sine_and_cosine(angle: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Of angles [...] from -pi to pi, where what a GPU knows of them by itself is off by a millionth."""
    if _IN_PTX:
        sine, cosine = tl.inline_asm_elementwise(
            """
            sin.approx.f32 $0, $2;
            cos.approx.f32 $1, $2;
            """,
            "=&f,=f,f", [angle], dtype=(tl.float32, tl.float32), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        sine, cosine = tl.sin(angle), tl.cos(angle)
    return sine, cosine


@triton.jit
def unpack_numbers(words: tl.tensor, DTYPE: tl.constexpr) -> tl.tuple:
    """Numbers that are their words."""
    return (words.to(DTYPE),)


@triton.jit
def no_factor(scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor) -> tl.tuple:
    """Numbers that stand for themselves."""
    return (tl.full([place.shape[0]], 1.0, tl.float32),)


@triton.jit
def scale_factor(scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor) -> tl.tuple:
    """Numbers that an entry's scale multiplies."""
    return (tl.load(scales[which] + place, mask=mask, other=0.0),)


@triton.jit
def unpack_fp8(words: tl.tensor, DTYPE: tl.constexpr) -> tl.tuple:
    """Two numbers of e4m3."""
    if _IN_PTX:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 t;
            .reg .b16 a, b;
            prmt.b32 t, $2, 0, 0x3120;
            mov.b32 {a, b}, t;
            cvt.rn.f16x2.e4m3x2 $0, a;
            cvt.rn.f16x2.e4m3x2 $1, b;
            }""",
            "=r,=r,r", [words], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        low = (words & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        high = ((words >> 8) & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
    return low.to(DTYPE), high.to(DTYPE)


@triton.jit
def unpack_int8(words: tl.tensor, DTYPE: tl.constexpr) -> tl.tuple:
    """Two whole numbers: with 0x64 above it a byte is the last digits of a float16 from 1024 on."""
    if _IN_PTX:
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b32 t, o;
            xor.b32 t, $2, 0x80808080;
            mov.b32 o, 0xe480e480;
            prmt.b32 $0, t, 0x64646464, 0x4240;
            prmt.b32 $1, t, 0x64646464, 0x4341;
            add.f16x2 $0, $0, o;
            add.f16x2 $1, $1, o;
            }""",
            "=&r,=&r,r", [words], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        low = (((words & 0xFF) ^ 0x80) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
        high = ((((words >> 8) & 0xFF) ^ 0x80) | 0x6400).to(tl.float16, bitcast=True) - 1152.0
    return low.to(DTYPE), high.to(DTYPE)


@triton.jit
def unpack_int4(words: tl.tensor, DTYPE: tl.constexpr) -> tl.tuple:
    """Four numbers plus 8, as `unpack_int8` does it; those of the upper halves of bytes come 16-fold."""
    if _IN_PTX:
        first, second, third, fourth = tl.inline_asm_elementwise(
            """{
            .reg .b32 t, o, m, n;
            shr.u32 t, $4, 8;
            mov.b32 o, 0xe408e408;
            mov.b32 m, 0x2c002c00;
            mov.b32 n, 0xd480d480;
            lop3.b32 $0, $4, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $1, $4, 0x00f000f0, 0x64006400, 0xea;
            lop3.b32 $2, t, 0x000f000f, 0x64006400, 0xea;
            lop3.b32 $3, t, 0x00f000f0, 0x64006400, 0xea;
            add.f16x2 $0, $0, o;
            fma.rn.f16x2 $1, $1, m, n;
            add.f16x2 $2, $2, o;
            fma.rn.f16x2 $3, $3, m, n;
            }""",
            "=&r,=&r,=&r,=&r,r", [words], dtype=(tl.float16,) * 4, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        first = ((words & 15) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        second = (((words >> 4) & 15) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        third = (((words >> 8) & 15) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
        fourth = (((words >> 12) & 15) | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    return first.to(DTYPE), second.to(DTYPE), third.to(DTYPE), fourth.to(DTYPE)


@triton.jit
def quarter_steps(scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor) -> tl.tuple:
    """Steps of an entry's quarters, a seventh of their largest numbers, of which two are in 32 bits."""
    older = tl.load(scales[2 * which] + place, mask=mask, other=0)
    newer = tl.load(scales[2 * which + 1] + place, mask=mask, other=0)
    return (
        (older << 16).to(tl.float32, bitcast=True) * (1 / 7),
        (older & -0x10000).to(tl.float32, bitcast=True) * (1 / 7),
        (newer << 16).to(tl.float32, bitcast=True) * (1 / 7),
        (newer & -0x10000).to(tl.float32, bitcast=True) * (1 / 7),
    )


@triton.jit
def save_numbers(
    tile: tl.tensor, numbers: tl.tensor, scales: tl.tuple, which: tl.constexpr, place: tl.tensor, mask: tl.tensor,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Numbers that stand for themselves, from where each entry's begin."""
    column = tl.arange(0, BLOCK_D)[None, :]
    tl.store(numbers[:, None] + column, tile, mask=mask[:, None] & (column < D))


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
