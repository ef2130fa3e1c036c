"""A hit reaches its neighbours: the tokens just before and after an important one count as important too."""

from __future__ import annotations

import torch
from torch import Tensor


def spread_hits(hit_KRN: Tensor, position_KRN: Tensor, reach: int) -> Tensor:
    """Hits, and every entry of the same head at most `reach` tokens away from one.

    Distance is counted in positions, so entries evicted in between do not bring others nearer.

    Args:
        hit_KRN: bool.
        position_KRN: int32, broadcastable to `hit_KRN`, no two equal in a head; padding is NEVER and has no hits.
        reach: tokens on either side, 0 for none.

    Returns:
        [K, R, N] bool; a neighbour that a row cannot see may be True, the caller knows what is visible.
    """
    if reach == 0:
        return hit_KRN
    order = position_KRN.argsort(dim=-1)  # padding may lie between a head's older and newer entries
    sorted_position = position_KRN.gather(-1, order)
    order = order.expand_as(hit_KRN)
    sorted_hit = hit_KRN.gather(-1, order)
    spread = sorted_hit.clone()
    for shift in range(1, reach + 1):
        near = sorted_position[..., shift:] - sorted_position[..., :-shift] <= reach
        spread[..., shift:] |= sorted_hit[..., :-shift] & near
        spread[..., :-shift] |= sorted_hit[..., shift:] & near
    return torch.empty_like(hit_KRN).scatter_(-1, order, spread)
