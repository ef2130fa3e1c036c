"""sample(): the next token of each sequence. Draws come from the sequence's own generator, whatever runs beside it."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence


def sample(logits_SV: Tensor, sequences: Seq[Sequence]) -> tuple[list[int], list[float]]:
    """Choose one token a row: the likeliest at temperature 0, else a draw among the top-p likeliest.

    Args:
        logits_SV: any floating dtype, one row a sequence.
        sequences: whose rows they are; a draw advances the generator of its sequence.

    Returns:
        Token ids, and their natural-log probabilities under the model (temperature 1, no top-p), NaN where a row's
        logits are not finite.
    """
    logits = logits_SV.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    tokens = logits.argmax(dim=-1)
    drawn = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if drawn:
        settings = [sequences[row].request.sampling for row in drawn]
        draws = [sequences[row].rng.random() for row in drawn]
        temperature, top_p, uniform = (
            torch.tensor(column, dtype=torch.float32, device=logits.device)[:, None]
            for column in ([s.temperature for s in settings], [s.top_p for s in settings], draws)
        )
        tokens[drawn] = _draw(logits[drawn] / temperature, top_p, uniform)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), chosen.tolist()


def _draw(logits_SV: Tensor, top_p_S1: Tensor, uniform_S1: Tensor) -> Tensor:
    """Inverse transform over the smallest set of likeliest tokens that holds `top_p`: [S] int64."""
    probs, order = torch.softmax(logits_SV, dim=-1).sort(dim=-1, descending=True)
    before = probs.cumsum(dim=-1) - probs
    kept = torch.where(before < top_p_S1, probs, 0.0).cumsum(dim=-1)
    index = (kept <= uniform_S1 * kept[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, index.clamp(max=probs.shape[-1] - 1))[:, 0]
