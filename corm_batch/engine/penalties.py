"""Penalties: what the tokens that came before take from the logits of the same tokens, row by row.

As vLLM and `transformers.generate` define them, in float32 and in this order:

    repetition   a token of prompt or answer: its logit times the penalty below 0, divided by it above
    frequency    a token of the answer: its logit less the penalty for each time it came
    presence     a token of the answer: its logit less the penalty

Rows without any are neither read nor written, and a batch of such rows has no `Penalties`.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.request import SamplingParams
from corm_batch.engine.rules import Rules
from corm_batch.engine.sequence import Row, Sequence


@dataclass(frozen=True)
class Penalties:
    """P of the S rows of logits that have one, on the device.

    Attributes:
        rows: [P] int64; None where these are all rows.
        repetition, frequency, presence: [P, 1] float32; 1, 0 and 0 where a row has none.
        seen: [P, V] bool: tokens in prompt or answer so far, kept up by `note`; None where no row asks for it.
        counts: [P, V] float32: how often a token came in the answer so far, likewise.
    """

    rows: Tensor | None
    repetition: Tensor
    frequency: Tensor
    presence: Tensor
    seen: Tensor | None
    counts: Tensor | None

    @classmethod
    def of(cls, rows: abc.Sequence[Row], rules: Rules, vocab_size: int, device: torch.device) -> Penalties | None:
        """Those of some rows, each before its token; None where there are none.

        Args:
            rows: of one sequence they may be several.
            rules: of the model; a request's own repetition penalty goes before theirs.
            vocab_size: V.
            device: of the logits.
        """
        factors = [_factors(row.sequence.request.sampling, rules) for row in rows]
        found = [i for i, one in enumerate(factors) if one != (1.0, 0.0, 0.0)]
        if not found:
            return None
        mine = [rows[i] for i in found]
        values = torch.tensor([factors[i] for i in found], dtype=torch.float32)
        repeats, counted = bool((values[:, 0] != 1.0).any()), bool((values[:, 1:] != 0.0).any())
        repetition, frequency, presence = values.to(device).split(1, dim=1)
        return cls(
            None if len(found) == len(rows) else torch.tensor(found).to(device),
            repetition,
            frequency,
            presence,
            _seen(mine, vocab_size, device) if repeats else None,
            _counts(mine, vocab_size, device) if counted else None,
        )

    def apply(self, logits_SV: Tensor) -> Tensor:
        """The logits [S, V] float32 less what came before."""
        logits_PV = logits_SV if self.rows is None else logits_SV[self.rows]
        if self.seen is not None:
            damped = torch.where(logits_PV < 0, logits_PV * self.repetition, logits_PV / self.repetition)
            logits_PV = torch.where(self.seen, damped, logits_PV)
        if self.counts is not None:
            logits_PV = logits_PV - self.frequency * self.counts - self.presence * (self.counts > 0)
        return logits_PV if self.rows is None else logits_SV.index_copy(0, self.rows, logits_PV)

    def note(self, tokens_S: Tensor) -> None:
        """Take note of the tokens that were chosen, before the next step."""
        tokens_P1 = (tokens_S if self.rows is None else tokens_S[self.rows])[:, None]
        if self.seen is not None:
            self.seen.scatter_(1, tokens_P1, True)
        if self.counts is not None:
            self.counts.scatter_add_(1, tokens_P1, torch.ones_like(tokens_P1, dtype=torch.float32))


def _factors(sampling: SamplingParams, rules: Rules) -> tuple[float, float, float]:
    """Repetition, frequency and presence penalty of a request."""
    own = sampling.repetition_penalty
    repetition = own if own != 1.0 else rules.repetition_penalty
    return repetition, sampling.frequency_penalty, sampling.presence_penalty


def _seen(rows: abc.Sequence[Row], vocab_size: int, device: torch.device) -> Tensor:
    """Which tokens come before each row: [P, V] bool, made anew, so that a step that fails leaves no trace."""
    seen = torch.stack([_prompt_seen(row.sequence, vocab_size, device) for row in rows])
    if (places := _answers_before(rows, device)) is not None:
        seen[places] = True
    return seen


def _counts(rows: abc.Sequence[Row], vocab_size: int, device: torch.device) -> Tensor:
    """How often each token came in the answer before each row: [P, V] float32, made anew."""
    counts = torch.zeros((len(rows), vocab_size), device=device)
    if (places := _answers_before(rows, device)) is not None:
        counts.index_put_(places, torch.ones((), device=device), accumulate=True)
    return counts


def _answers_before(rows: abc.Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """The rows and tokens of all answers before each row, [N] int64 each; None where there are none."""
    lengths = [row.num_new for row in rows]
    if not any(lengths):
        return None
    index = np.repeat(np.arange(len(rows)), lengths)
    tokens = np.concatenate([np.array(row.sequence.answer[: row.num_new], dtype=np.int64) for row in rows])
    return torch.from_numpy(index).to(device), torch.from_numpy(tokens).to(device)


def _prompt_seen(sequence: Sequence, vocab_size: int, device: torch.device) -> Tensor:
    """Which tokens the prompt has, [V] bool; remembered."""
    if sequence.prompt_tokens_seen is None:
        ids = torch.from_numpy(sequence.to_prefill[: sequence.num_prompt_tokens]).to(device)
        seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        sequence.prompt_tokens_seen = seen.index_fill_(0, ids, True)
    return sequence.prompt_tokens_seen
