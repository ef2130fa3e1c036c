"""SnapKV: keep what the newest queries of the prompt attended to most, and its neighbours."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

from corm_batch.ops.pages import NEVER
from corm_batch.ops.reduction import Reduction
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.needs import Needs
from corm_batch.policies.with_budgets import with_budgets


class SnapKV(ScoringPolicy, name="snapkv"):
    """Keep the keys that the last `window` queries attended to most, as many as the budget allows.

    Based on SnapKV (arXiv 2404.14469), section 4: the attention of the prompt's last queries, summed up by key,
    max-pooled over `pooling` neighbours, and the highest of each head kept; there `recent` is `window`. Pooled by the
    mean, as in kvpress, with `pooled: mean`. Deviations:
    * the newest entries, which stay in any case, share their scores too; in the authors' code they are left out.
    * a kv head's score is the mean of its query heads, so that grouped-query attention shares entries.
    * neighbours are entries next to each other among those kept so far, which evictions may have parted.
    * streaming prefill scores after every chunk, by the chunk's last queries.
    * the budget holds while the answer is written, too; its queries add to the scores.
    Of a key's weights `statistic` may also take the sum of squares (KV-Compress, arXiv 2410.00161) or the largest
    (KVzip, arXiv 2505.23416), both without those papers' budgets.
    """

    recent: int = Field(32, ge=1, description="newest entries that never leave, part of the budget")
    window: int = Field(32, ge=1, description="newest queries of the prompt, or of a chunk, that score")
    pooling: int = Field(7, ge=1, description="neighbouring entries that share their scores; odd")
    pooled: Literal["max", "mean"] = Field("max", description="what an entry gets of the scores of its neighbours")
    statistic: Literal["sum", "sum_squares", "max"] = Field("sum", description="what is taken of a key's weights")

    @model_validator(mode="after")
    def _pooling_is_odd(self) -> Self:
        if self.pooling % 2 == 0:
            raise ValueError(f"pooling ({self.pooling}) must be odd: as many neighbours before an entry as after it")
        return self

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """Pooled widely, by each kind of budget."""
        wide: dict[str, Any] = {"window": 64, "recent": 64, "pooling": 63}
        return (
            *with_budgets(cls, (0.5, 0.25, 0.125), **wide),
            *with_budgets(cls, (0.25, 0.125), "adakv", **wide),
            *with_budgets(cls, (0.25,), "pyramidkv", **wide),
        )

    @property
    def needs(self) -> Needs:
        """The weights of the last `window` queries."""
        return Needs(reduction=Reduction(self.window, statistic=self.statistic, accumulate=False))

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """What the last queries gave an entry or one of its neighbours."""
        order = entries.position.argsort(dim=-1)  # padding may lie between a head's older and newer entries
        own = entries.statistic.masked_fill(entries.position == NEVER, 0.0).gather(-1, order)  # and holds anything
        pool = max_pool1d if self.pooled == "max" else avg_pool1d
        pooled = pool(own.flatten(0, -2)[:, None], self.pooling, stride=1, padding=self.pooling // 2)
        return torch.empty_like(own).scatter_(-1, order, pooled.view_as(own))
