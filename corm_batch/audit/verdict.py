"""Verdict: one answer, token by token, against what an uncompressed cache would have chosen in its place.

At every token the scores hold what the uncompressed cache thinks after the prompt and the answer so far. Up to the
first token that it would not have chosen, the two answers are the same text; from there on it would have gone its own
way, so later tokens only tell how much it minds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class ScoredTokens(Protocol):
    """Natural-log probabilities of an answer's tokens, and of the likeliest one at the place of each."""

    @property
    def logprobs(self) -> Sequence[float]:
        """Of the answer's tokens."""

    @property
    def best_logprobs(self) -> Sequence[float]:
        """Of the likeliest token at each place."""


@dataclass(frozen=True)
class Verdict:
    """What the full cache says of one answer.

    Attributes:
        tokens: of the answer.
        agreeing: of these, those within the least gap of the likeliest.
        first_difference: index of the first token that is not; None where every one is.
        largest_gap: nats by which the likeliest token was more probable than the answer's, at the worst place.
        logprob_full: mean natural-log probability of the answer's tokens; 0 of no tokens.
    """

    tokens: int
    agreeing: int
    first_difference: int | None
    largest_gap: float
    logprob_full: float

    @property
    def agreement(self) -> float:
        """Share of the tokens within the least gap; 1 of no tokens."""
        return self.agreeing / self.tokens if self.tokens else 1.0


def verdict(scores: ScoredTokens, min_gap: float) -> Verdict:
    """Hold an answer's scores against `min_gap` nats.

    Raises:
        ValueError: a score is no number: the model's logits are not finite there, and nothing follows from them.
    """
    gaps = [best - own for own, best in zip(scores.logprobs, scores.best_logprobs, strict=True)]
    if (place := _first(map(math.isnan, gaps))) is not None:
        raise ValueError(f"the uncompressed cache's scores are no numbers from token {place} on")
    differing = [gap > min_gap for gap in gaps]
    return Verdict(
        tokens=len(gaps),
        agreeing=len(gaps) - sum(differing),
        first_difference=_first(differing),
        largest_gap=max(gaps, default=0.0),
        logprob_full=math.fsum(scores.logprobs) / max(1, len(gaps)),
    )


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Several answers about one document as one: their tokens one after another, in the order they were asked for."""
    tokens = sum(one.tokens for one in verdicts)
    starts = [sum(one.tokens for one in verdicts[:place]) for place in range(len(verdicts))]
    differing = [
        start + one.first_difference
        for start, one in zip(starts, verdicts, strict=True)
        if one.first_difference is not None
    ]
    return Verdict(
        tokens=tokens,
        agreeing=sum(one.agreeing for one in verdicts),
        first_difference=min(differing, default=None),
        largest_gap=max((one.largest_gap for one in verdicts), default=0.0),
        logprob_full=sum(one.logprob_full * one.tokens for one in verdicts) / max(1, tokens),
    )


def _first(marks: Iterable[bool]) -> int | None:
    return next((place for place, mark in enumerate(marks) if mark), None)
