"""sample(): a token for each row of logits: the likeliest, a draw, or that of an answer to score.

Draws come from the sequence's own generator, whatever runs beside it.
"""

from __future__ import annotations

import math
from collections import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corm_batch.engine.constraint import Constraint
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.penalties import Penalties
from corm_batch.engine.rules import Rules
from corm_batch.engine.sequence import Row
from corm_batch.ops.select import select_likeliest

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
    """What the model's rules do to the logits of S rows in some steps, on the device, whatever tokens came before.

    Attributes:
        always: [V] float32, added to every row; None for nothing.
        steps: one a step; None for nothing.
    """

    always: Tensor | None
    steps: abc.Sequence[Edits | None]

    def apply(self, logits_SV: Tensor, step: int) -> Tensor:
        """The logits [S, V] float32 that tokens are chosen by."""
        if self.always is not None:
            logits_SV = logits_SV + self.always
        if (edits := self.steps[step]) is not None:
            rows, tokens, added = edits
            logits_SV = logits_SV.index_put((rows, tokens), added, accumulate=True)
        return logits_SV


@dataclass(frozen=True)
class Given:
    """The tokens of answers to score, on the device: F of the S rows have no choice.

    Attributes:
        rows: [F] int64.
        tokens: [steps, F] int64.
    """

    rows: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Told:
    """The rows that are told of the likeliest tokens, on the device: P of the S rows, of K tokens at most.

    Attributes:
        rows: [P] int64.
        count: K.
    """

    rows: Tensor
    count: int

    def apply(self, logits_SV: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens of each row, of equal ones the lowest id first, and their logits: [S, K] int64 and
        float32, token 0 at -inf in the rows that are not told."""
        logits_PV, tokens_PV = logits_SV[self.rows].sort(dim=-1, descending=True, stable=True)
        size = len(logits_SV), self.count
        tokens_SK = self.rows.new_zeros(size).index_copy_(0, self.rows, tokens_PV[:, : self.count])
        return tokens_SK, logits_SV.new_full(size, -torch.inf).index_copy_(0, self.rows, logits_PV[:, : self.count])


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen: `draws` is None where no row samples, `given` where none is scored, `changes` where the
    model has no rules, `penalties` where no row has one, `constraint` where no answer has a grammar, `told` where no
    row is told of the likeliest tokens."""

    draws: Draws | None
    given: Given | None
    changes: Changes | None
    penalties: Penalties | None
    constraint: Constraint | None
    told: Told | None

    def note(self, tokens_S: Tensor) -> None:
        """Take note of the tokens that were chosen, before the next step."""
        if self.penalties is not None:
            self.penalties.note(tokens_S)
        if self.constraint is not None:
            self.constraint.note(tokens_S)


def prepare(model: LoadedModel, rows: abc.Sequence[Row], num_steps: int) -> Choice:
    """What `sample` needs for the rows' tokens and those of the steps after them, `num_steps` in all."""
    return Choice(
        _draw(rows, num_steps, model.rules, model.device),
        _give(rows, num_steps, model.device),
        _change(model, rows, num_steps),
        Penalties.of(rows, model.rules, model.shape.vocab_size, model.device),
        Constraint.of(rows, model.device),
        _tell(rows, model.shape.vocab_size, model.device),
    )


class Sampled(NamedTuple):
    """What `sample` chooses for S rows, and tells of the likeliest tokens in their places, K of them.

    All natural-log probabilities, float32, are under model, rules, penalties and grammars (temperature 1, no top-p):
    NaN where a row's logits are not finite, -inf for the likeliest one too where no token is allowed.

    Attributes:
        tokens: [S] int64.
        logprobs: [2, S], of these tokens, and of the likeliest ones.
        likeliest, likeliest_logprobs: [S, K], see `Told`.
    """

    tokens: Tensor
    logprobs: Tensor
    likeliest: Tensor
    likeliest_logprobs: Tensor

    @classmethod
    def stacked(cls, steps: abc.Sequence[Sampled]) -> Sampled:
        """Several steps in one: each tensor has their dimension behind that of the rows."""
        return cls(*(torch.stack(one, dim) for one, dim in zip(zip(*steps, strict=True), (1, 2, 1, 1), strict=True)))

    def columns(self) -> tuple[list[Any], ...]:
        """The fields of `Chosen`, row by row; waits for the device."""
        return self.tokens.tolist(), *self.logprobs.tolist(), self.likeliest.tolist(), self.likeliest_logprobs.tolist()


def sample(logits_SV: Tensor, choice: Choice, step: int = 0) -> Sampled:
    """Choose one token a row: the likeliest that is allowed, one drawn among the likeliest, or the one to score.

    Args:
        logits_SV: any floating dtype; left as they are.
        choice: of the same rows.
        step: which of its steps.
    """
    ruled = logits_SV
    if choice.changes is not None or choice.penalties is not None or choice.constraint is not None:
        ruled = logits_SV.to(torch.float32, copy=choice.constraint is not None)
    if choice.changes is not None:
        ruled = choice.changes.apply(ruled, step)
    if choice.penalties is not None:
        ruled = choice.penalties.apply(ruled)
    if choice.constraint is not None:
        choice.constraint.apply(ruled)
    tokens, highest_S, total_S = select_likeliest(logits_SV.device)(ruled)
    logits_S = highest_S
    if (draws := choice.draws) is not None:
        drawn = _inverse_transform(ruled[draws.rows].float(), draws, draws.uniform[step])
        tokens.index_copy_(0, draws.rows, drawn)
    if (given := choice.given) is not None:
        tokens.index_copy_(0, given.rows, given.tokens[step])
    if draws is not None or given is not None:
        logits_S = ruled.gather(1, tokens[:, None])[:, 0].float()
    logprobs = torch.stack((logits_S, highest_S)) - total_S
    likeliest_SK, logprobs_SK = tokens.new_empty(len(tokens), 0), logprobs.new_empty(len(tokens), 0)
    if choice.told is not None:
        likeliest_SK, logits_SK = choice.told.apply(ruled.float())
        logprobs_SK = logits_SK - total_S[:, None]
    return Sampled(tokens, logprobs, likeliest_SK, logprobs_SK)


def _give(rows: abc.Sequence[Row], num_steps: int, device: torch.device) -> Given | None:
    """The tokens to score in the next steps, the last one again behind an answer's end; None when all are chosen."""
    found = [(i, row) for i, row in enumerate(rows) if row.sequence.request.answer_ids is not None]
    if not found:
        return None
    tokens = [
        [row.sequence.answer[min(row.num_new + step, len(row.sequence.answer) - 1)] for _, row in found]
        for step in range(num_steps)
    ]
    return Given(torch.tensor([i for i, _ in found]).to(device), torch.tensor(tokens).to(device))


def _tell(rows: abc.Sequence[Row], vocab_size: int, device: torch.device) -> Told | None:
    """Which rows are told of the likeliest tokens; None when none is."""
    counts = [row.sequence.request.num_likeliest or 0 for row in rows]
    found = [i for i, count in enumerate(counts) if count]
    return Told(torch.tensor(found).to(device), min(max(counts), vocab_size)) if found else None


_COLDEST = 1e-30
"""The likeliest token alone, and still a normal number in float32."""


def _draw(rows: abc.Sequence[Row], num_steps: int, rules: Rules, device: torch.device) -> Draws | None:
    """Random numbers for the rows that sample, those that their tokens have in any batch; None when there are none."""
    requests = [row.sequence.request for row in rows]
    found = [i for i, one in enumerate(requests) if one.sampling.temperature > 0 and one.answer_ids is None]
    if not found:
        return None
    limits = [
        (
            max(one.temperature, _COLDEST),
            one.top_k or rules.top_k or math.inf,
            one.top_p if one.top_p < 1 else rules.top_p,
            one.min_p or rules.min_p,
        )
        for one in (requests[i].sampling for i in found)
    ]
    temperature, top_k, top_p, min_p = torch.tensor(limits, dtype=torch.float32).to(device).split(1, dim=1)
    numbers = [rows[i].sequence.drawn(rows[i].num_new, num_steps) for i in found]
    uniform = torch.tensor(numbers, dtype=torch.float32).t()[..., None].to(device)
    return Draws(torch.tensor(found).to(device), temperature, top_k, top_p, min_p, uniform)


def _inverse_transform(logits_SV: Tensor, draws: Draws, uniform_S1: Tensor) -> Tensor:
    """A draw at the rows' temperatures among the `top_k` likeliest tokens, of these the fewest likeliest that hold
    `top_p`, and of these the ones at least `min_p` times as likely as the first: [S] int64."""
    below_SV = logits_SV - logits_SV.amax(dim=-1, keepdim=True)  # else the smallest temperatures make infinities
    probs, order = torch.softmax(below_SV / draws.temperature, dim=-1).sort(dim=-1, descending=True)
    probs = torch.where(torch.arange(probs.shape[-1], device=probs.device) < draws.top_k, probs, 0.0)
    total = probs.cumsum(dim=-1)
    wanted = (total - probs < draws.top_p * total[:, -1:]) & (probs >= draws.min_p * probs[:, :1]) & (probs > 0)
    kept = torch.where(wanted, probs, 0.0).cumsum(dim=-1)
    index = (kept <= uniform_S1 * kept[:, -1:]).sum(dim=-1, keepdim=True)
    last = wanted.sum(dim=-1, keepdim=True) - 1  # the largest numbers drawn are 1 in float32
    return order.gather(1, torch.minimum(index, last).clamp(min=0))[:, 0]


def _change(model: LoadedModel, rows: abc.Sequence[Row], num_steps: int) -> Changes | None:
    """What the rules do in the next steps; None where they do nothing."""
    rules, device, always = model.rules, model.device, None
    if rules.always:
        always = torch.zeros(model.shape.vocab_size)
        always[list(rules.always)] = torch.tensor(list(rules.always.values()))
        always = always.to(device)
    steps: list[Edits | None] = [None] * num_steps
    if rules.changes_steps:
        steps = [_edits(rows, rules, step, device) for step in range(num_steps)]
    return None if always is None and not any(steps) else Changes(always, steps)


def _edits(rows: abc.Sequence[Row], rules: Rules, step: int, device: torch.device) -> Edits | None:
    """What is added to the logits of single rows at one step."""
    found = []
    for i, row in enumerate(rows):
        history = row.before if rules.reads_history else None
        added = rules.at(row.sequence.num_prompt_tokens, row.num_new + step, history)
        found += [(i, token, value) for token, value in added]
    if not found:
        return None
    index, tokens, values = zip(*found, strict=True)
    return torch.tensor(index).to(device), torch.tensor(tokens).to(device), torch.tensor(values).to(device)
