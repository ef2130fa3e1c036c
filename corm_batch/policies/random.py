"""Random eviction: the control every other policy has to beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.ops.pages import NEVER
from corm_batch.ops.reduction import Reduction
from corm_batch.policies.base import EvictingPolicy
from corm_batch.policies.needs import Needs

_UINT32 = 2**32 - 1
_MIX = (0x2C1B3C6D, 0x297A2D39)  # odd multipliers of a 32-bit avalanche hash


class Random(EvictingPolicy, name="random"):
    """Keep a random share of the entries, and the newest `recent` ones: the control.

    Each entry draws its fate from a hash of (seed, layer, kv head, position), so a rerun keeps the same ones. No paper;
    Random Attention (arXiv 2609.03430) shows why a comparison needs it.
    """

    engine_fields: ClassVar[frozenset[str]] = frozenset({"tensor_parallel"})  # each rank counts its kv heads from 0

    keep_ratio: float = Field(0.5, ge=0.0, le=1.0, description="share of the older entries that stay")
    recent: int = Field(256, ge=1, description="newest entries that never leave")
    seed: int = Field(0, ge=0, lt=2**31, description="another seed keeps other entries")

    @property
    def needs(self) -> Needs:
        """No votes, only the attention of the last `recent` queries, so that it is known how much of it was lost."""
        return Needs(reduction=Reduction(self.recent))

    @property
    def looks_for_question(self) -> bool:
        """Chance alone decides."""
        return False

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Never for those drawn to stay, `recent` steps after birth for the others."""
        heads = torch.arange(position.shape[-2], device=position.device)[:, None]
        bits = (
            position.long() * 0x9E3779B1 + heads * 0x85EBCA77 + layer * 0xC2B2AE3D + self.seed * 0x27D4EB2F
        ) & 0xFFFFFFFF
        for multiplier in _MIX:
            bits = ((bits ^ (bits >> 15)) * multiplier) & 0xFFFFFFFF
        bits ^= bits >> 16
        return torch.where(bits < self.keep_ratio * 2**32, NEVER, position + self.recent)
