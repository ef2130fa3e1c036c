"""judge(): which of the tokens a step chose count for a sequence, and whether they end its answer."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass

from corm_batch.engine.request import FinishReason
from corm_batch.engine.sequence import Sequence


@dataclass(frozen=True)
class Outcome:
    """What a step gave one sequence.

    Attributes:
        tokens: its next ones, up to the one it ends with.
        logprob_sum: of these.
        reason: why the answer ends, "error" where logits were not finite; None when it goes on.
    """

    tokens: list[int]
    logprob_sum: float
    reason: FinishReason | None


def judge(
    sequence: Sequence, tokens: Iterable[int], logprobs: Iterable[float], eos_token_ids: Container[int]
) -> Outcome:
    """Go through a step's tokens of one sequence, which stays as it is.

    Args:
        sequence: whose tokens these are.
        tokens, logprobs: in order; a log-probability of NaN stands for logits that were not finite.
        eos_token_ids: tokens that end an answer.
    """
    output, start, total = list(sequence.output), len(sequence.output), 0.0
    for token, logprob in zip(tokens, logprobs, strict=True):
        if math.isnan(logprob):
            return Outcome(output[start:], total, "error")
        output.append(token)
        total += logprob
        if (reason := sequence.finish_reason(output, eos_token_ids)) is not None:
            return Outcome(output[start:], total, reason)
    return Outcome(output[start:], total, None)
