"""Loss: nats a token by which a policy finds the full cache's own answers less likely, and what that is in percent.

A loss of 0.01 nats says that the perplexity of these answers is 1 % higher than under the full cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from corm_batch.audit.verdict import joined, verdict
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import DocumentError, SpecError
from corm_batch.evaluation.answers import Answered

_MOST = 100.0  # nats: guessing among a million tokens costs 14
_GIVEN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(%|nats?)\s*")


@dataclass(frozen=True)
class MaxLoss:
    """How much may be lost: `1%` of perplexity, or `0.01 nats` a token."""

    text: str
    nats: float

    @classmethod
    def parse(cls, text: str) -> MaxLoss:
        """What a user wrote.

        Raises:
            SpecError: it says neither a percentage nor nats, nothing above 0, or more than anything can lose.
        """
        found = _GIVEN.fullmatch(text)
        value = float(found[1]) if found else 0.0
        in_percent = found is not None and found[2] == "%"
        nats = nats_of(value / 100) if in_percent else value
        if found is None or not 0 < nats <= _MOST:
            raise SpecError(
                f"--max-loss: got {text!r}, allowed are a rise of the answers' perplexity above 0, as 1%, or nats a "
                f"token up to {_MOST:g}, as '0.01 nats'"
            )
        return cls(f"{found[1]}%" if in_percent else f"{found[1]} nats", nats)


def nats_of(share: float) -> float:
    """A rise of perplexity by such a share, in nats a token."""
    return math.log1p(share)


def share_of(nats: float) -> float:
    """Nats a token as a rise of perplexity."""
    return math.expm1(nats)


@dataclass(frozen=True)
class DocumentLoss:
    """What a policy made of the full cache's answers about one document.

    Attributes:
        nats: lost a token, over all of its answers; below 0 where the policy finds them likelier. Of the full cache its
            `noise`.
        changed: whether the policy would have answered otherwise; None of answers that were drawn.
        memory: what its caches took.
    """

    nats: float
    changed: bool | None
    memory: MemoryStats

    @property
    def seconds(self) -> float:
        """The engine's time for the document, its share of passes and steps with others."""
        return self.memory.prefill_s + self.memory.decode_s


def document_loss(
    full: Sequence[Answered], there: Sequence[Answered], min_gap: float, *, sampled: bool
) -> DocumentLoss:
    """Of one document's answers, all scored under the full cache and under a policy.

    Args:
        full, there: answer by answer.
        min_gap: nats within which two tokens tie.
        sampled: answers were drawn, so that no token follows from the scores.

    Raises:
        DocumentError: one has no scores, or such as are no numbers.
    """
    for one in (*full, *there):
        if one.error is not None:
            raise DocumentError(one.error)
        if not all(map(math.isfinite, one.logprobs)):
            raise DocumentError("the model's probability of a token of the answer is no number, or 0")
    lost = sum(math.fsum(one.logprobs) - math.fsum(other.logprobs) for one, other in zip(full, there, strict=True))
    found = joined([verdict(one, min_gap) for one in there])
    changed = None if sampled else found.first_difference is not None
    return DocumentLoss(lost / max(1, found.tokens), changed, MemoryStats.total([one.memory for one in there]))


def noise(full: Sequence[Answered], written: Sequence[float]) -> float:
    """Nats a token by which the full cache finds one document's answers less likely when they are scored, beside other
    prompts, than when it wrote them: what arithmetic alone changes. NaN where that is not known.

    Args:
        full: the answers as scored.
        written: the mean log-probability of each one's tokens when it was written.
    """
    tokens = sum(len(one.logprobs) for one in full)
    before = math.fsum(len(one.logprobs) * mean for one, mean in zip(full, written, strict=True))
    return (before - math.fsum(math.fsum(one.logprobs) for one in full)) / max(1, tokens)


def peak_ratio(losses: Sequence[DocumentLoss]) -> float:
    """Bytes held at most over bytes of an uncompressed cache, both summed over documents."""
    memory = [one.memory for one in losses]
    return sum(one.kv_bytes_peak for one in memory) / max(1, sum(one.kv_bytes_full for one in memory))
