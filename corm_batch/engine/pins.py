"""Pins: entries of a prompt that stay, whatever a policy says: its beginning, and what surrounds the document."""

from __future__ import annotations

from collections import abc

import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence
from corm_batch.policies.base import Pins


def pinned_spans(pins: Pins, sequence: Sequence) -> list[tuple[int, int]]:
    """First and last 1-based positions of what is pinned of a prompt; no position is in two of them."""
    spans = []
    if pins.first:
        spans.append((1, min(pins.first, sequence.num_prompt_tokens)))
    return spans


def pinned_entries(pins: Pins, sequences: abc.Sequence[Sequence], position: Tensor) -> Tensor | None:
    """Which entries are pinned.

    Args:
        pins: of the policy.
        sequences: whose entries these are.
        position: [K, N] of one sequence, or [S, K, N].

    Returns:
        bool, shaped like `position`; None when nothing is.
    """
    if pins == Pins():
        return None
    spans = [pinned_spans(pins, sequence) for sequence in sequences]
    pinned = torch.zeros_like(position, dtype=torch.bool)
    for index in range(max(map(len, spans))):
        bounds = [own[index] if index < len(own) else (1, 0) for own in spans]
        if position.dim() == 2:
            first, last = bounds[0]
            pinned |= (position >= first) & (position <= last)
        else:
            both = torch.tensor(bounds, dtype=torch.int32).to(position.device)[:, :, None, None]
            pinned |= (position >= both[:, 0]) & (position <= both[:, 1])
    return pinned
