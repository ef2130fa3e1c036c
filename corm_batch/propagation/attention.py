"""A share of the tokens: those that the newest queries attended to most, and their neighbours."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import max_pool1d

from corm_batch.ops.top import top_entries
from corm_batch.propagation.base import Propagation


class AttentionShare(Propagation, name="attention"):
    """A fixed share of the tokens goes on: those that the newest queries attended to most, and their neighbours.

    Based on FastKV (arXiv 2502.01068): the attention of the prompt's last queries, mean over heads, pooled over
    neighbours, chooses what the layers behind the middle are run on. Deviations: 128 queries decide where theirs are 8;
    the first tokens always go on; pooled by the maximum over 31 tokens, as a fact is read by the words before it.
    """

    share: float = Field(
        0.3, gt=0.0, le=1.0, description="share of the tokens that go on, those included that always do"
    )
    pooling: int = Field(31, ge=1, description="neighbouring tokens that share the highest of their scores; odd")

    @model_validator(mode="after")
    def _pooling_is_odd(self) -> Self:
        if self.pooling % 2 == 0:
            raise ValueError(f"pooling ({self.pooling}) must be odd: as many neighbours before a token as after it")
        return self

    def fewest(self, num_tokens: int) -> int:
        """The share, or more where more always go on."""
        return max(super().fewest(num_tokens), math.ceil(self.share * num_tokens))

    def keep_rows(self, score: Tensor, stay: Tensor) -> Tensor:
        """The highest, of equals the newest; more than the share only where more must stay."""
        rank = max_pool1d(score[None], self.pooling, stride=1, padding=self.pooling // 2).masked_fill(stay, torch.inf)
        position = torch.arange(len(score), dtype=torch.int32, device=score.device)[None]
        top = top_entries(rank, position, torch.ones_like(rank, dtype=torch.bool), math.ceil(self.share * len(score)))
        return top[0] | stay
