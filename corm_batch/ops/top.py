"""The highest ranks of each head, for a policy that bounds how many entries a head may hold."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = torch.iinfo(torch.int64).min
"""As a rank: not a candidate."""


def top_entries(rank_KN: Tensor, count: int) -> Tensor:
    """Which entries of each head are among its `count` highest.

    Args:
        rank_KN: int64; no two candidates of a head are equal.
        count: at least 1; with fewer candidates all of them are chosen.

    Returns:
        [K, N] bool, never True where the rank is LOWEST.
    """
    candidate = rank_KN != LOWEST
    if count >= rank_KN.shape[-1]:
        return candidate
    return candidate & (rank_KN >= rank_KN.topk(count, dim=-1).values[:, -1:])
