"""Eight bits a number, whole numbers of a step, and a step for each entry."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from corm_batch.ops.form import FormKernels, Stored
from corm_batch.ops.pages import Column
from corm_batch.storage.base import Storage


class Int8(Storage, name="int8"):
    """Keys and values as whole numbers from -127 to 127, each entry's of a step of its own: half the bytes of bfloat16.

    The step is a 127th of the entry's largest number. So what is next to an outlier is rounded coarser than in `fp8`,
    and where there is none numbers are four times as exact. Models whose keys have large biases are refused: beside a
    bias of 100 attention is off by a fifth, beside 700 nothing is left of it. Any GPU reads it.
    """

    most_bias: ClassVar[float] = 32.0

    # float32: kernels copy no fewer than 4 bytes while they compute
    scales: ClassVar[tuple[Column, ...]] = (Column("key_step"), Column("value_step"))

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """A byte a number."""
        return Column("key", torch.int8, head_dim), Column("value", torch.int8, head_dim)

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """The nearest multiples of the step; what is infinite becomes the largest."""
        (keys, key_step), (values, value_step) = _whole_numbers(key), _whole_numbers(value)
        return Stored(keys, values, (key_step, value_step))

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """In float32."""
        key_step, value_step = (step[..., None] for step in stored.scales)
        return stored.key.float() * key_step, stored.value.float() * value_step

    def kernels(self) -> FormKernels:
        """Two numbers a word, and their entry's step."""
        from corm_batch.ops.kernels.forms import save_int8, scale_factor, unpack_int8

        return FormKernels(unpack_int8, scale_factor, save_int8)


def _whole_numbers(value: Tensor) -> tuple[Tensor, Tensor]:
    """Multiples [..., D], of a step [...] float32.

    Of the largest number 11 significant bits count, as many as a model's own numbers of 16 bits have: what was decoded
    and rounded to these again gives the same step, and with it the same multiples. Kernels do all of it alike.
    """
    wide = value.float()
    bits = wide.abs().amax(dim=-1).view(torch.int32) + 0x1000
    largest = (bits & -0x2000).view(torch.float32).clamp(2.0**-100, 2.0**127)
    numbers = (wide * (largest.reciprocal() * 127)[..., None]).clamp(-127, 127)
    return torch.floor(numbers + 0.5).to(torch.int8), largest * (1 / 127)
