"""TOVA: keep what the newest query attends to most."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field
from torch import Tensor

from corm_batch.ops.reduction import Reduction
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs
from corm_batch.policies.with_budgets import with_budgets


class Tova(ScoringPolicy, name="tova"):
    """Keep the keys that the newest query attends to most, on average over all heads of a layer, in all of them alike.

    Based on Transformers are Multi-State RNNs (arXiv 2401.06104), section 3: token omission via attention. Deviation:
    the budget is not applied after every token, see `BudgetedPolicy`; it is with `compact_every: 1` and chunks of one
    token.
    """

    recent: int = Field(0, ge=0, description="newest entries that never leave, part of the budget (the paper: 0)")

    one_choice: ClassVar[bool] = True

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """One budget."""
        return with_budgets(cls, (0.25,), recent=16)

    @property
    def needs(self) -> Needs:
        """The weights of the newest query."""
        return Needs(reduction=Reduction(1, statistic="last", accumulate=False))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """What the newest query gave an entry."""
        return entries.statistic
