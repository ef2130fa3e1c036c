"""The highest ranks of each head, for a policy whose heads may hold so many entries and no more."""

from __future__ import annotations

import torch
from torch import Tensor


def order_entries(rank: Tensor, position: Tensor) -> Tensor:
    """Numbers in the order of ranks, and of positions where these are equal.

    Args:
        rank: [..., N] float32 or int32, of any sign; what is not a number comes last.
        position: [..., N] int32, no two equal in a head.

    Returns:
        [..., N] int64.
    """
    if rank.is_floating_point():
        rank = rank.float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        bits = rank.add_(0.0).view(torch.int32)  # without -0.0, in the numbers' own order but for those below 0
        rank = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return torch.add(position, rank.long(), alpha=1 << 31)


def top_entries(rank_KN: Tensor, position_KN: Tensor, candidate_KN: Tensor, most: int | Tensor) -> Tensor:
    """Which candidates of each head have its highest ranks, as many as it may hold; of equals the newest.

    Args:
        rank_KN, position_KN: as in `order_entries`.
        candidate_KN: bool.
        most: how many, at least 1, or [K] integers, one for each head, from 0 on; with fewer candidates all of them are
            chosen.

    Returns:
        [K, N] bool.
    """
    num_entries = candidate_KN.shape[-1]
    if isinstance(most, int) and most >= num_entries:
        return candidate_KN
    order = order_entries(rank_KN, position_KN).masked_fill(~candidate_KN, torch.iinfo(torch.int64).min)
    if isinstance(most, int):
        return candidate_KN & (order >= order.topk(most, dim=-1).values[:, -1:])
    place = torch.empty_like(order).scatter_(
        1, order.argsort(dim=-1, descending=True), torch.arange(num_entries, device=order.device).expand_as(order)
    )
    return candidate_KN & (place < most[:, None])
