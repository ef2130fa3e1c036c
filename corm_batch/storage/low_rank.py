"""LowRank: what forms have in common that store keys and values in a few directions of their head."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from corm_batch.ops.pages import Column
from corm_batch.storage.model import Model


class LowRank(Model):
    """Keys without their rotary position, and values, as numbers in a few directions of their head.

    Of the same bytes keys bear a lower rank than values on every model that was measured, which is why each has a share
    of its own.
    """

    key_share: float = Field(0.7, gt=0.0, le=1.0, description="numbers stored of a key, as a share of its width")
    value_share: float = Field(0.9, gt=0.0, le=1.0, description="numbers stored of a value, as a share of its width")

    low_rank: ClassVar[bool] = True

    def columns(self, head_dim: int, dtype: torch.dtype) -> tuple[Column, Column]:
        """As many numbers as the shares say, in the model's type."""
        key, value = (in_fours(share, head_dim) for share in (self.key_share, self.value_share))
        return Column("key", dtype, key), Column("value", dtype, value)


def in_fours(share: float, head_dim: int) -> int:
    """A share of a head's numbers, in fours: 64 bits at a time can be read of them."""
    return min(head_dim, 4 * max(1, round(share * head_dim / 4)))
