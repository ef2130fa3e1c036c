"""AdaKV: the heads of a layer compete for what the layer may hold."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.budgets.base import Budget, Place
from corm_batch.ops.pages import NEVER


class AdaKV(Budget, name="adakv"):
    """The entries of highest rank in a layer stay, whichever head's they are; a floor is every head's own.

    Based on Ada-KV (arXiv 2407.11550), Algorithm 1: the highest K * `max_kept` of a layer's K heads stay.
    Deviation: the safeguard is that of kvpress, where every head is sure of its highest `floor` * `max_kept` and the
    rest of the layer's share goes by rank. The paper's draws counts towards the average instead, again and again where
    a budget is applied after every chunk and while an answer is written.
    """

    floor: float = Field(0.2, ge=0.0, le=1.0, description="share of max_kept that every head is sure of")

    shared: ClassVar[bool] = True

    def most(self, place: Place, num_tokens: int) -> int:
        """`max_kept`, on average over the heads of the layer."""
        return self.average(place, num_tokens)

    def split(self, place: Place, most: int | Tensor, rank: Tensor, candidate: Tensor) -> Tensor:
        """Entries each head has among the highest of all heads, drawn towards the average."""
        top, lowest = (torch.inf, -torch.inf) if rank.is_floating_point() else (NEVER, torch.iinfo(rank.dtype).min)
        most = torch.as_tensor(most, device=rank.device)  # [] or [..., 1]
        held = candidate.sum(dim=-1, keepdim=True)
        order = rank.masked_fill(~candidate, lowest).sort(dim=-1, descending=True).values
        index = torch.arange(order.shape[-1], device=rank.device)
        sure = torch.minimum(held, (most[..., None] * self.floor + 1e-6).long())
        order = order.masked_fill(index < sure, top)
        pool = most.long() * place.num_heads
        level = order.flatten(-2).sort(dim=-1, descending=True).values
        last = (pool - 1).clamp(max=level.shape[-1] - 1).expand(*level.shape[:-1], 1)
        bar = level.gather(-1, last)[..., None]
        above, equal = ((hits & (index < held)).sum(dim=-1) for hits in (order > bar, order == bar))
        spare = pool - above.sum(dim=-1, keepdim=True)
        return above + torch.minimum(equal, (spare - equal.cumsum(dim=-1) + equal).clamp(min=0))
