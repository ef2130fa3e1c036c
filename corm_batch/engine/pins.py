"""Which entries are pinned: the first ones of a prompt, whatever a policy says of them."""

from __future__ import annotations

from collections import abc

import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence


def pinned_entries(num_first: int, sequences: abc.Sequence[Sequence], position: Tensor) -> Tensor | None:
    """Which entries are pinned.

    Args:
        num_first: so many at the beginning of each prompt, or all of a shorter one.
        sequences: whose entries these are.
        position: [K, N] of one sequence, or [S, K, N].

    Returns:
        bool, shaped like `position`; None when nothing is.
    """
    if not num_first:
        return None
    last = torch.tensor([min(num_first, sequence.num_prompt_tokens) for sequence in sequences], dtype=torch.int32)
    return position <= last.to(position.device).view(-1, *[1] * (position.dim() - 1))
