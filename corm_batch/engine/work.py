"""What a step does: a pass over prompts, or a few more tokens of answers. The scheduler says, the runner does it."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np

from corm_batch.engine.sequence import Row, Sequence
from corm_batch.policies.reading import ExtraPass


@dataclass(frozen=True, eq=False)
class Span:
    """Tokens [start, stop) of one sequence: of its prompt, or of what the model reads behind it.

    Attributes:
        sequence, start, stop: these.
        extra: what is read behind the prompt, as from there; None in the prompt.
    """

    sequence: Sequence
    start: int
    stop: int
    extra: ExtraPass | None = None

    @classmethod
    def behind(cls, sequence: Sequence, number: int = 0) -> Span:
        """Of what the model is still to read behind a sequence's prompt the next, or so many behind that one."""
        start, extra = sequence.num_prompt_tokens, sequence.extra_passes[sequence.num_extra_passes + number]
        return cls(sequence, start, start + len(extra.token_ids), extra)

    @property
    def num_tokens(self) -> int:
        """How many these are."""
        return self.stop - self.start

    @property
    def most_tokens(self) -> int:
        """Tokens that its sequence takes of this pass, or of one to come."""
        return max(self.num_tokens, self.sequence.longest_extra_pass)

    @property
    def reading(self) -> int:
        """When the reading arrived that its sequence begins with; -1 for none."""
        return -1 if self.sequence.source is None else self.sequence.source.arrival

    @property
    def token_ids(self) -> np.ndarray:
        """[T] int64, these tokens."""
        return self.sequence.to_prefill[self.start : self.stop] if self.extra is None else self.extra.token_ids

    @property
    def stores(self) -> bool:
        """Whether it leaves entries in the cache."""
        return self.extra is None and self.sequence.stores

    @property
    def asks(self) -> bool:
        """Whether what it stores comes behind entries of a reading."""
        return self.stores and self.sequence.source is not None

    @property
    def leaves_tokens(self) -> bool:
        """Whether some of these may be left behind on the way through the model's layers."""
        return self.stores and not self.sequence.keeps_all and not self.asks

    @property
    def ends_prompt(self) -> bool:
        """Whether its last row chooses the sequence's first output token, or its last rows all that one pass scores."""
        return self.extra is None and self.stop == self.sequence.num_to_prefill

    @property
    def ends_reading(self) -> bool:
        """Whether there is nothing left to read for its sequence."""
        if self.extra is not None:
            return self.extra is self.sequence.extra_passes[-1]
        return self.ends_prompt and not self.sequence.extra_passes

    @property
    def num_chosen(self) -> int:
        """Tokens of the answer that the pass chooses, one for each of the span's last rows."""
        return self.sequence.num_chosen_at_once if self.ends_prompt else 0

    def count(self) -> None:
        """Tell the sequence that it has been read."""
        if self.extra is None:
            self.sequence.num_prefilled = self.stop
        else:
            self.sequence.num_extra_passes += 1


def with_further(firsts: abc.Sequence[Span], budget: int, most: int | None) -> tuple[list[Span], int]:
    """Spans of half-done prompts, and beside those that are behind one what else is to be read there.

    Args:
        firsts: one of each prompt, all of which are read.
        budget: tokens of a pass; further ones are read as long as there is room, behind the first prompts first.
        most: tokens behind one prompt at a time; None: as many as the prompt has, as a pass over it would.

    Returns:
        The spans, and tokens left of the budget.
    """
    spans, room = list[Span](), budget - sum(span.most_tokens for span in firsts)
    for span in firsts:
        spans.append(span)
        sequence, left = span.sequence, min(room, (most or span.start) - span.num_tokens)
        num_further = 0 if span.extra is None else len(sequence.extra_passes) - sequence.num_extra_passes - 1
        for number in range(1, num_further + 1):
            further = Span.behind(sequence, number)
            if further.num_tokens > left:
                break
            spans.append(further)
            left, room = left - further.num_tokens, room - further.num_tokens
    return spans, room


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
        """Those whose answers begin, and readings that are done."""
        return [span.sequence for span in self.spans if span.ends_reading]

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
