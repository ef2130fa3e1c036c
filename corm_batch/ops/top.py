"""The highest ranks of each head, for a policy that bounds how many entries a head may hold."""

from __future__ import annotations

import torch
from torch import Tensor


def top_entries(rank_KN: Tensor, candidate_KN: Tensor, count: int) -> Tensor:
    """Which candidates of each head have its `count` highest ranks.

    Args:
        rank_KN: int64; no two candidates of a head have the same.
        candidate_KN: bool.
        count: at least 1; with fewer candidates all of them are chosen.

    Returns:
        [K, N] bool.
    """
    if count >= rank_KN.shape[-1]:
        return candidate_KN
    rank = rank_KN.masked_fill(~candidate_KN, torch.iinfo(torch.int64).min)
    return candidate_KN & (rank >= rank.topk(count, dim=-1).values[:, -1:])
