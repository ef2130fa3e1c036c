"""Reading, ExtraReading: a pass over a prompt or a chunk of one, or passes behind prompts, as one layer shows them to
a policy that looks at prompts itself; and what the latter's tokens are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from corm_batch.ops.packing import Packing
from corm_batch.ops.rotary import Rotary
from corm_batch.ops.select import Ops


class ExtraPass(NamedTuple):
    """Tokens that a model reads behind a prompt, all of whose entries it sees, and that leave nothing in the cache.

    Attributes:
        token_ids: [R] int64, these tokens.
        about: which of the prompt's tokens the pass is about, as its policy means it; no two passes of a prompt are
            about one token.
    """

    token_ids: np.ndarray
    about: range


@dataclass(frozen=True)
class Reading:
    """What the newest tokens of a prompt asked.

    Attributes:
        query: [H, R, D], one for each of the R tokens, with rotary positions.
        lse: [H, R] float32, the log of each query's softmax denominator.
        stop: tokens that have been read, these included.
        num_prompt_tokens: tokens of the whole prompt.
        token_ids: [R] int64, the tokens.
        scale, softcap: of the logits.
        rotary: how positions are undone; None where the policy's needs do not name it.
        memory: what the policy noted in this layer of the same prompt before, and may note for later: empty at the
            prompt's beginning, gone when it has been read.
        sink: [H] a logit of each head that takes part in the softmax and has no value; None for none.
        steps: [R] int32, the tokens' 1-based positions, where others of the pass did not come as far as this layer
            (engine.propagation); None where none is missing.
        num_tokens: of the pass, those included that did not; None where none is missing.
    """

    query: Tensor
    lse: Tensor
    stop: int
    num_prompt_tokens: int
    token_ids: Tensor
    scale: float
    softcap: float | None = None
    rotary: Rotary | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    sink: Tensor | None = None
    steps: Tensor | None = None
    num_tokens: int | None = None

    @property
    def num_rows(self) -> int:
        """R; the entries of these tokens are the last R of every head."""
        return self.query.shape[1]

    @property
    def start(self) -> int:
        """Tokens read before these."""
        return self.stop - (self.num_tokens or self.num_rows)

    @property
    def ends_prompt(self) -> bool:
        """Whether the answer follows."""
        return self.stop == self.num_prompt_tokens

    @property
    def step(self) -> Tensor:
        """[R] int32, the tokens' 1-based positions."""
        if self.steps is not None:
            return self.steps
        return torch.arange(self.start + 1, self.stop + 1, dtype=torch.int32, device=self.query.device)


@dataclass(frozen=True)
class ExtraReading:
    """What the tokens of extra passes asked, each behind a prompt, some behind the same one.

    Attributes:
        query: [H, R, D], one for each of the R tokens of all passes, with rotary positions.
        step: [R] int32, the tokens' 1-based positions.
        token_ids: [R] int64, the tokens.
        rows, entries: where those of each pass stand among these, and where the entries that it sees: the first T are
            the prompt's tokens in their order, the last ones the pass's own, and what is between them is padding at
            position NEVER.
        about: what each pass is about.
        ops: operations on all of them, as their device runs them best.
        scale, softcap: of the logits.
        sink: [H] a logit of each head that takes part in the softmax and has no value; None for none.
    """

    query: Tensor
    step: Tensor
    token_ids: Tensor
    rows: Packing
    entries: Packing
    about: tuple[range, ...]
    ops: Ops
    scale: float
    softcap: float | None = None
    sink: Tensor | None = None


def answer_score(position: Tensor) -> Tensor:
    """Scores of an answer's own entries under a policy that scores prompts: above any of theirs, the newest highest.

    Not infinite: heads that share a budget take equal ranks in their order, and the last ones would be left none.
    """
    return position.float() * 1e20
