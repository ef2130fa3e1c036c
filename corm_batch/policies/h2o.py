"""H2O: keep the heavy hitters, the keys that all queries so far attended to most."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from corm_batch.ops.reduction import ALL_ROWS, Reduction
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs


class H2O(ScoringPolicy, name="h2o"):
    """Keep the keys of most attention in all, as many as the budget allows, the newest `recent` ones among them.

    Based on H2O (arXiv 2306.14048), Algorithm 1: attention summed up over all queries so far. Deviations:
    * the bound is not applied after every token, see `BudgetedPolicy`.
    * a kv head's score is the mean of its query heads, so that grouped-query attention shares entries.
    Sums favour old entries, which more queries have seen; `by_age` divides them by that number, as kvpress'
    ObservedAttention does. Every query of a prompt votes: exact prefill computes its logits a second time.
    """

    by_age: bool = Field(False, description="whether scores are means over the queries since an entry's birth")

    @property
    def needs(self) -> Needs:
        """The weights of all queries."""
        return Needs(reduction=Reduction(ALL_ROWS))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """All attention an entry received, or the mean of it."""
        return entries.statistic / (step - entries.position + 1).clamp(min=1) if self.by_age else entries.statistic
