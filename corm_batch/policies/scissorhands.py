"""Scissorhands: keep the keys that the fewest queries found unimportant."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from corm_batch.ops.reduction import ALL_ROWS, Reduction
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs


class Scissorhands(ScoringPolicy, name="scissorhands"):
    """Keep the keys that the smallest share of queries found unimportant, as many as the budget allows.

    Based on Scissorhands (arXiv 2305.17118), Algorithm 2: a key is unimportant to the query of step t iff its weight is
    below 1 / t, CORM's test, and those unimportant most often leave. Deviations:
    * the share of all queries since a key's birth, where the paper counts in a window of the last 400.
    * the budget of every layer is the same by default and not applied after every token, see `BudgetedPolicy`.
    * grouped-query attention: a key is unimportant only if it is so to every query head of its group, as in `corm`.
    Every query of a prompt votes: exact prefill computes its logits a second time.
    """

    tau: float = Field(1.0, gt=0.0, description="a key is unimportant at a weight below tau / t")

    @property
    def needs(self) -> Needs:
        """The queries to which a key was unimportant."""
        return Needs(reduction=Reduction(ALL_ROWS, "step", self.tau, statistic="count_low"))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The share of queries since its birth that an entry mattered to."""
        seen_by = (step - entries.position + 1).clamp(min=1)
        return (1.0 - entries.statistic / seen_by).clamp(min=0.0)
