"""As the model computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.form import FormKernels, Stored
from corm_batch.ops.pages import Column
from corm_batch.storage.base import Storage


class Model(Storage, name="model"):
    """As the model computes them, in model.dtype: nothing is lost."""

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """Both in the model's type."""
        return Column("key", dtype, head_dim), Column("value", dtype, head_dim)

    def encode(self, key: Tensor, value: Tensor) -> Stored:
        """As they are."""
        return Stored(key, value)

    def decode(self, stored: Stored) -> tuple[Tensor, Tensor]:
        """As they are."""
        return stored.key, stored.value

    def kernels(self) -> FormKernels:
        """Numbers as they are."""
        from corm_batch.ops.kernels.forms import no_factor, save_numbers, unpack_numbers

        return FormKernels(unpack_numbers, no_factor, save_numbers)
