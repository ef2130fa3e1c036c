"""sample(): the next token of each sequence. Draws come from the sequence's own generator, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence


@dataclass(frozen=True)
class Draws:
    """What the rows that sample need for some steps, on the device: D of the S rows draw.

    Attributes:
        rows: [D] int64.
        temperature, top_p: [D, 1] float32.
        uniform: [steps, D, 1] float32 random numbers in [0, 1).
    """

    rows: Tensor
    temperature: Tensor
    top_p: Tensor
    uniform: Tensor


def draw(sequences: Seq[Sequence], num_steps: int, device: torch.device) -> Draws | None:
    """Random numbers for the next `num_steps` tokens of the sequences that sample; None when all are greedy.

    Each takes them from its own generator, in order, so the same sequence draws the same in any batch.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if not rows:
        return None
    drawing = [sequences[row] for row in rows]
    temperature, top_p = (
        torch.tensor(column, dtype=torch.float32)[:, None].to(device)
        for column in zip(*((s.request.sampling.temperature, s.request.sampling.top_p) for s in drawing), strict=True)
    )
    uniform = torch.tensor([[s.rng.random() for _ in range(num_steps)] for s in drawing], dtype=torch.float32)
    return Draws(torch.tensor(rows).to(device), temperature, top_p, uniform.t()[..., None].to(device))


def sample(logits_SV: Tensor, draws: Draws | None, step: int = 0) -> tuple[Tensor, Tensor]:
    """Choose one token a row: the likeliest, or for the rows of `draws` one among the top-p likeliest.

    Args:
        logits_SV: any floating dtype, one row a sequence.
        draws: of the same sequences.
        step: which of the steps of `draws`.

    Returns:
        [S] int64 token ids, and [S] float32 their natural-log probabilities under the model (temperature 1, no top-p),
        NaN where a row's logits are not finite.
    """
    logits = logits_SV.float()
    tokens = logits.argmax(dim=-1)
    if draws is not None:
        drawn = _inverse_transform(logits[draws.rows] / draws.temperature, draws.top_p, draws.uniform[step])
        tokens.index_copy_(0, draws.rows, drawn)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _inverse_transform(logits_SV: Tensor, top_p_S1: Tensor, uniform_S1: Tensor) -> Tensor:
    """A draw from the smallest set of likeliest tokens that holds `top_p`: [S] int64."""
    probs, order = torch.softmax(logits_SV, dim=-1).sort(dim=-1, descending=True)
    before = probs.cumsum(dim=-1) - probs
    kept = torch.where(before < top_p_S1, probs, 0.0).cumsum(dim=-1)
    index = (kept <= uniform_S1 * kept[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, index.clamp(max=probs.shape[-1] - 1))[:, 0]
