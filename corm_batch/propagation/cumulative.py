"""Blocks of tokens, as many as hold nearly all of the attention."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from corm_batch.propagation.base import Propagation


class CumulativeAttention(Propagation, name="cumulative"):
    """The fewest blocks of tokens go on that hold a share `coverage` of the attention of the newest queries.

    Based on UniPrefill: blocks of 64 tokens, the highest first, until their share of the attention reaches 0.99. How
    many tokens these are depends on the document. Deviations: attention is that of one layer, mean over heads, and
    what it decides holds for all layers behind; the first and the newest tokens always go on, alone, not in blocks.
    """

    coverage: float = Field(0.99, gt=0.0, le=1.0, description="share of the attention that lies on what goes on")
    block: int = Field(64, ge=1, description="tokens that go on together")

    def keep_rows(self, score: Tensor, stay: Tensor) -> Tensor:
        """The highest blocks, of equals the earlier, up to the one that reaches the share."""
        blocks = pad(score, (0, -len(score) % self.block)).view(-1, self.block).double().sum(dim=-1)
        held, order = blocks.sort(descending=True, stable=True)
        before = held.cumsum(dim=0) - held
        chosen = (before < self.coverage * held.sum()).scatter(0, order, before < self.coverage * held.sum())
        return chosen.repeat_interleave(self.block)[: len(score)] | stay
