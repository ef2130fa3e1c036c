"""Eight bits a number (e4m3) and a power of two an entry."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from corm_batch.ops.form import FormKernels, Stored
from corm_batch.ops.pages import Column
from corm_batch.ops.scaled import FP8, FP8_MAX
from corm_batch.storage.base import Storage


class Fp8(Storage, name="fp8"):
    """Keys and values in 8 bits (e4m3), each entry's with a scale of their own: half the bytes of bfloat16.

    A number keeps 4 significant bits whatever its scale, so the scale is there for the range alone: values of some
    models are too small for e4m3 and keys of others too large (a power of two from 2^-9 to 448). It is the least power
    of two by which the largest number of the entry is one of e4m3's, rounded, and powers of two change no digit: an
    entry decoded and stored again is the same, byte for byte. Other engines have one scale a layer, from a calibration
    or 1.
    """

    # float32: kernels copy no fewer than 4 bytes while they compute
    scales: ClassVar[tuple[Column, ...]] = (Column("key_scale"), Column("value_scale"))
    needs_fp8: ClassVar[bool] = True

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """A byte a number."""
        return Column("key", FP8, head_dim), Column("value", FP8, head_dim)

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """The nearest numbers; what is infinite becomes the largest."""
        (keys, key_scale), (values, value_scale) = _scaled(key), _scaled(value)
        return Stored(keys, values, (key_scale, value_scale))

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """In float32."""
        key_scale, value_scale = (scale[..., None] for scale in stored.scales)
        return stored.key.float() * key_scale, stored.value.float() * value_scale

    def kernels(self) -> FormKernels:
        """Two numbers a word, and their entry's scale."""
        from corm_batch.ops.kernels.forms import save_fp8, scale_factor, unpack_fp8

        return FormKernels(unpack_fp8, scale_factor, save_fp8)


def _scaled(value: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [..., D] and scales [...]; the scale is worked out on bits, as kernels do it.

    Up to 464 = 1.8125 * 2^8 the nearest number is 448, the largest: what exceeds it carries into the exponent when
    3/16 less a bit are added to the mantissa. No scale is so large that 448 times it overflows.
    """
    wide = value.float()
    bits = wide.abs().amax(dim=-1).view(torch.int32) + 0x17FFFF
    scale = (((bits >> 23) - 8).clamp(1, 246) << 23).view(torch.float32)
    numbers = (wide * (1 / scale)[..., None]).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return numbers, scale
