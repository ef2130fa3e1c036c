"""H2O: keep the heavy hitters, the keys that all queries so far attended to most."""

from __future__ import annotations

from torch import Tensor

from corm_batch.ops.pages import Entries
from corm_batch.ops.reduction import ALL_ROWS, Reduction
from corm_batch.policies.base import ScoringPolicy


class H2O(ScoringPolicy, name="h2o"):
    """Keep the `max_kept` keys of most attention in all, the newest `recent` ones among them.

    Based on H2O (arXiv 2306.14048), Algorithm 1: attention summed up over all queries so far. Deviations:
    * the bound is not applied after every token, see `ScoringPolicy`.
    * a kv head's score is the mean of its query heads, so that grouped-query attention shares entries.
    Every query of a prompt votes: exact prefill computes its logits a second time.
    """

    @property
    def reduction(self) -> Reduction:
        """The weights of all queries."""
        return Reduction(window=ALL_ROWS)

    def score(self, entries: Entries, step: int | Tensor) -> Tensor:
        """All attention an entry received."""
        return entries.mass
