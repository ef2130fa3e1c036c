"""sample(): the next token of each sequence. Draws come from the sequence's own generator, whatever runs beside it."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rules import Rules
from corm_batch.engine.sequence import Sequence

Edits = tuple[Tensor, Tensor, Tensor]
"""Rows [E] and tokens [E] of logits, and what is added to each, [E] float32."""


@dataclass(frozen=True)
class Draws:
    """What the rows that sample need for some steps, on the device: D of the S rows draw.

    Attributes:
        rows: [D] int64.
        temperature, top_k, top_p, min_p: [D, 1] float32.
        uniform: [steps, D, 1] float32 random numbers in [0, 1).
    """

    rows: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Changes:
    """What the model's rules do to the logits of S rows in some steps, on the device.

    Attributes:
        always: [V] float32, added to every row; None for nothing.
        steps: one a step; None for nothing.
        seen: [S, V] bool: tokens in prompt or answer so far, kept up by `note`; None without a repetition penalty.
        penalty: divides or multiplies the logits of these.
    """

    always: Tensor | None
    steps: abc.Sequence[Edits | None]
    seen: Tensor | None
    penalty: float

    def apply(self, logits_SV: Tensor, step: int) -> Tensor:
        """The logits [S, V] float32 that tokens are chosen by."""
        if self.always is not None:
            logits_SV = logits_SV + self.always
        if (edits := self.steps[step]) is not None:
            rows, tokens, added = edits
            logits_SV = logits_SV.index_put((rows, tokens), added, accumulate=True)
        if self.seen is not None:
            damped = torch.where(logits_SV < 0, logits_SV * self.penalty, logits_SV / self.penalty)
            logits_SV = torch.where(self.seen, damped, logits_SV)
        return logits_SV


@dataclass(frozen=True)
class Choice:
    """How the next tokens of some sequences are chosen; `draws` is None where all are greedy, `changes` where the model
    has no rules."""

    draws: Draws | None
    changes: Changes | None

    def note(self, tokens_S: Tensor) -> None:
        """Take note of the tokens that were chosen, before the next step."""
        if self.changes is not None and self.changes.seen is not None:
            self.changes.seen.scatter_(1, tokens_S[:, None], True)


def prepare(model: LoadedModel, sequences: abc.Sequence[Sequence], num_steps: int) -> Choice:
    """What `sample` needs for the next `num_steps` tokens of the sequences."""
    return Choice(_draw(sequences, num_steps, model.rules, model.device), _change(model, sequences, num_steps))


def sample(logits_SV: Tensor, choice: Choice, step: int = 0) -> tuple[Tensor, Tensor]:
    """Choose one token a row: the likeliest the rules allow, or for the rows that draw one among the likeliest.

    Args:
        logits_SV: any floating dtype, one row a sequence; left as they are.
        choice: of the same sequences.
        step: which of its steps.

    Returns:
        [S] int64 token ids, and [S] float32 their natural-log probabilities under the model (temperature 1, no rules),
        NaN where a row's logits are not finite.
    """
    logits = logits_SV.float()
    ruled = logits if choice.changes is None else choice.changes.apply(logits, step)
    tokens = ruled.argmax(dim=-1)
    if (draws := choice.draws) is not None:
        drawn = _inverse_transform(ruled[draws.rows] / draws.temperature, draws, draws.uniform[step])
        tokens.index_copy_(0, draws.rows, drawn)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _draw(sequences: abc.Sequence[Sequence], num_steps: int, rules: Rules, device: torch.device) -> Draws | None:
    """Random numbers for the sequences that sample; None when all are greedy.

    Each takes them from its own generator, in order, so the same sequence draws the same in any batch.
    """
    rows = [row for row, sequence in enumerate(sequences) if sequence.request.sampling.temperature > 0]
    if not rows:
        return None
    drawing = [sequences[row] for row in rows]
    settings = [sequence.request.sampling for sequence in drawing]
    limits = [
        (one.temperature, rules.top_k or np.inf, one.top_p if one.top_p < 1 else rules.top_p, rules.min_p)
        for one in settings
    ]
    temperature, top_k, top_p, min_p = torch.tensor(limits, dtype=torch.float32).to(device).split(1, dim=1)
    uniform = torch.tensor([[s.rng.random() for _ in range(num_steps)] for s in drawing], dtype=torch.float32)
    uniform = uniform.t()[..., None].to(device)
    return Draws(torch.tensor(rows).to(device), temperature, top_k, top_p, min_p, uniform)


def _inverse_transform(logits_SV: Tensor, draws: Draws, uniform_S1: Tensor) -> Tensor:
    """A draw among the `top_k` likeliest tokens, of these the fewest likeliest that hold `top_p`, and of these the ones
    at least `min_p` times as likely as the first: [S] int64."""
    probs, order = torch.softmax(logits_SV, dim=-1).sort(dim=-1, descending=True)
    probs = torch.where(torch.arange(probs.shape[-1], device=probs.device) < draws.top_k, probs, 0.0)
    total = probs.cumsum(dim=-1)
    wanted = (total - probs < draws.top_p * total[:, -1:]) & (probs >= draws.min_p * probs[:, :1])
    kept = torch.where(wanted, probs, 0.0).cumsum(dim=-1)
    index = (kept <= uniform_S1 * kept[:, -1:]).sum(dim=-1, keepdim=True)
    return order.gather(1, index.clamp(max=probs.shape[-1] - 1))[:, 0]


def _change(model: LoadedModel, sequences: abc.Sequence[Sequence], num_steps: int) -> Changes | None:
    """What the rules do in the next steps; None where they do nothing."""
    rules, vocab_size, device = model.rules, model.shape.vocab_size, model.device
    always, seen = None, None
    if rules.always:
        always = torch.zeros(vocab_size)
        always[list(rules.always)] = torch.tensor(list(rules.always.values()))
        always = always.to(device)
    steps: list[Edits | None] = [None] * num_steps
    if rules.changes_steps:
        steps = [_edits(sequences, rules, step, device) for step in range(num_steps)]
    if rules.repetition_penalty != 1.0:
        seen = _seen(sequences, vocab_size, device)
    if always is None and seen is None and not any(steps):
        return None
    return Changes(always, steps, seen, rules.repetition_penalty)


def _edits(sequences: abc.Sequence[Sequence], rules: Rules, step: int, device: torch.device) -> Edits | None:
    """What is added to the logits of single rows at one step."""
    found = []
    for row, sequence in enumerate(sequences):
        history = np.array([*sequence.request.token_ids, *sequence.output]) if rules.reads_history else None
        added = rules.at(sequence.num_prompt_tokens, len(sequence.output) + step, history)
        found += [(row, token, value) for token, value in added]
    if not found:
        return None
    rows, tokens, values = zip(*found, strict=True)
    return torch.tensor(rows).to(device), torch.tensor(tokens).to(device), torch.tensor(values).to(device)


def _seen(sequences: abc.Sequence[Sequence], vocab_size: int, device: torch.device) -> Tensor:
    """Which tokens each sequence has so far: [S, V] bool, made anew, so that a step that fails leaves no trace."""
    for sequence in sequences:
        if sequence.prompt_tokens_seen is None:
            ids = torch.from_numpy(np.array(sequence.request.token_ids, dtype=np.int64)).to(device)
            seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            sequence.prompt_tokens_seen = seen.index_fill_(0, ids, True)
    seen = torch.stack([sequence.prompt_tokens_seen for sequence in sequences])  # type: ignore[misc]
    lengths = [len(sequence.output) for sequence in sequences]
    if any(lengths):
        rows = np.repeat(np.arange(len(sequences)), lengths)
        tokens = np.concatenate([np.array(sequence.output, dtype=np.int64) for sequence in sequences])
        seen[torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device)] = True
    return seen
