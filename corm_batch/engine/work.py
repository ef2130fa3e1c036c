"""What a step does: a pass over prompts, or a few more tokens of answers. The scheduler says, the runner does it."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

from corm_batch.engine.sequence import Sequence


@dataclass(frozen=True)
class Span:
    """Prompt tokens [start, stop) of one sequence."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        """How many these are."""
        return self.stop - self.start

    @property
    def ends_prompt(self) -> bool:
        """Whether the sequence's first output token follows."""
        return self.stop == self.sequence.num_prompt_tokens


@dataclass(frozen=True)
class Prefill:
    """One forward pass over whole prompts, or chunks of them."""

    spans: abc.Sequence[Span]

    @property
    def num_tokens(self) -> int:
        """Tokens of all spans."""
        return sum(span.num_tokens for span in self.spans)

    @property
    def sequences(self) -> list[Sequence]:
        """Those whose first output token the pass chooses."""
        return [span.sequence for span in self.spans if span.ends_prompt]


@dataclass(frozen=True)
class Decode:
    """The next `num_steps` tokens of every running sequence.

    Attributes:
        sequences: these, with room reserved for their entries.
        num_steps: tokens of each.
        starved: there is no room, although the only sequence has the pool to itself.
    """

    sequences: list[Sequence]
    num_steps: int
    starved: bool = False


Work = Prefill | Decode


class Chosen(NamedTuple):
    """The tokens that a step chose, and their log-probabilities: [steps][S] each, NaN where logits were not finite."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
