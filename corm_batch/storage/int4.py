"""Four bits a number, whole numbers of a step, and four steps for each entry."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.form import FormKernels, Stored
from corm_batch.ops.pages import Column
from corm_batch.storage.base import Storage

GROUPS = 4
"""Parts of a key or value that have a step each; kernels know the number."""


class Int4(Storage, name="int4"):
    """Keys and values as whole numbers from -7 to 7, two a byte, each quarter of an entry's of a step of its own.

    A quarter's largest number is stored in the first half of a float32, two of them in 32 bits; the step is a seventh
    of it. Heads 128 wide take 72 bytes where bfloat16 takes 256, a 3.6th. Any GPU reads it.
    """

    most_bias: ClassVar[float] = 8.0

    # two largest numbers each: kernels copy no fewer than 4 bytes while they compute
    scales: ClassVar[tuple[Column, ...]] = tuple(
        Column(f"{part}_largest_{half}", torch.int32) for part in ("key", "value") for half in (0, 1)
    )

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """Half a byte a number.

        Raises:
            UnsupportedModelError: heads have no four equal parts.
        """
        if head_dim % GROUPS:
            raise UnsupportedModelError(f"engine.storage: int4 needs heads of a width divisible by 4, got {head_dim}")
        return Column("key", torch.uint8, head_dim // 2), Column("value", torch.uint8, head_dim // 2)

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """The nearest multiples of the steps; what is infinite becomes the largest."""
        (keys, *key_largest), (values, *value_largest) = _packed(key), _packed(value)
        return Stored(keys, values, (*key_largest, *value_largest))

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """In float32."""
        return _unpacked(stored.key, *stored.scales[:2]), _unpacked(stored.value, *stored.scales[2:])

    def kernels(self) -> FormKernels:
        """Four numbers a word, and their quarters' steps."""
        from corm_batch.ops.kernels.forms import quarter_steps, save_int4, unpack_int4

        return FormKernels(unpack_int4, quarter_steps, save_int4, GROUPS)


def _packed(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes [..., D / 2], a number plus 8 in each half, the even ones low; and the largest numbers, two in an int32.

    Of a largest number 8 significant bits count, cut off: what was decoded and rounded to the model's own numbers gives
    the same again, where float32 may have fallen a little short of it, too.
    """
    wide = value.float().unflatten(-1, (GROUPS, -1))
    bits = wide.abs().amax(dim=-1).view(torch.int32) + 0x100
    largest = (bits & -0x10000).view(torch.float32).clamp(2.0**-100, 2.0**120)
    numbers = (wide * (largest.reciprocal() * 7)[..., None]).clamp(-7, 7)
    halves = torch.floor(numbers + 8.5).to(torch.uint8).flatten(-2)
    first, second, third, fourth = largest.view(torch.int32).unbind(-1)
    return halves[..., ::2] | halves[..., 1::2] << 4, first >> 16 | second, third >> 16 | fourth


def _unpacked(packed: Tensor, *largest: Tensor) -> Tensor:
    """The numbers [..., D] of what `_packed` gives."""
    numbers = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).float() - 8
    each = [half for pair in largest for half in ((pair & 0xFFFF) * 0x10000, pair & -0x10000)]
    factor = torch.stack(each, dim=-1).view(torch.float32).repeat_interleave(numbers.shape[-1] // GROUPS, dim=-1)
    return numbers * (factor * (1 / 7))
