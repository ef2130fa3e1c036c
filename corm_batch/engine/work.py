"""What a step does: a pass over prompts, or a few more tokens of answers. The scheduler says, the runner does it."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

from corm_batch.engine.sequence import Row, Sequence


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
        """Whether the sequence's first output token follows, or all that one pass scores."""
        return self.stop == self.sequence.num_to_prefill

    @property
    def num_chosen(self) -> int:
        """Tokens of the answer that the pass chooses, one for each of the span's last rows."""
        return self.sequence.num_chosen_at_once if self.ends_prompt else 0


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
        """Those of whose answers the pass chooses tokens."""
        return [span.sequence for span in self.spans if span.ends_prompt]

    @property
    def rows(self) -> list[Row]:
        """What these tokens are, sequence by sequence."""
        return [Row(span.sequence, place) for span in self.spans for place in range(span.num_chosen)]


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
    """The tokens that a step chose for one sequence, their log-probabilities, NaN where logits were not finite, and
    those of the likeliest tokens in their places."""

    tokens: list[int]
    logprobs: list[float]
    best_logprobs: list[float]

    def part(self, start: int, stop: int) -> Chosen:
        """Those from `start` to before `stop`."""
        return Chosen(self.tokens[start:stop], self.logprobs[start:stop], self.best_logprobs[start:stop])
