"""KeyDiff: keep the keys least like the others."""

from __future__ import annotations

from typing import Self

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs
from corm_batch.policies.with_budgets import with_budgets


class KeyDiff(ScoringPolicy, name="keydiff"):
    """Keep the keys that point least in the direction in which a head's keys point on average.

    Based on KeyDiff (arXiv 2504.15364), Algorithm 1: the score is minus the cosine between a key and the mean of the
    head's normalised keys, those of the entries it holds. With `prefill: streaming` it is applied block by block, as in
    the paper. Deviation: `recent` protects the newest entries; the paper protects none (0).
    """

    recent: int = Field(256, ge=0, description="newest entries that never leave, part of the budget (the paper: 0)")

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """One budget."""
        return with_budgets(cls, (0.25,), recent=64)

    @property
    def needs(self) -> Needs:
        """Keys, and no queries."""
        return Needs(keys=True)

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The less alike, the higher."""
        held = (entries.position <= step) & (entries.expiry > step)
        key = entries.key.float().masked_fill(~held[..., None], 0.0)
        anchor = normalize(key, dim=-1).sum(dim=-2, keepdim=True) / held.sum(dim=-1)[..., None, None].clamp(min=1)
        return -cosine_similarity(key, anchor, dim=-1)
