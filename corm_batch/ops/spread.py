"""A hit reaches its neighbours: the tokens just before and after an important one count as important too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from corm_batch.ops.pages import NEVER


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
    position_KRN = position_KRN.contiguous()
    ordered, order = position_KRN.sort(dim=-1)  # padding may lie between a head's older and newer entries
    first = torch.searchsorted(ordered, position_KRN - reach)
    behind = torch.searchsorted(ordered, position_KRN.clamp(max=NEVER - reach) + reach, right=True)
    hits = hit_KRN.gather(-1, order.expand_as(hit_KRN)).cumsum(dim=-1, dtype=torch.int32)
    before = pad(hits, (1, 0))  # [..., i]: hits among the first i entries
    return before.gather(-1, behind.expand_as(hit_KRN)) > before.gather(-1, first.expand_as(hit_KRN))
