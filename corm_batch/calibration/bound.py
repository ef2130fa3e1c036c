"""Bounds of a mean loss over all documents, from those of a few.

Losses are skewed: most documents lose next to nothing and some lose much, so that few documents are apt to show less
than there is to see. Student's bound alone holds too seldom then. Two things mend that: the bound is Johnson's (1978,
"Modified t tests and confidence intervals for asymmetrical populations", JASA 73), which goes up with the skewness, and
spread and skewness are taken from the documents that chose the policy, too, wherever these show more; their mean, which
the choice has made look too good, is not. infra/measure/calibration_bound.py holds it to what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and what it may be over all documents.

    Attributes:
        mean: of these documents.
        low, high: each holds by itself with the confidence that was asked for.
        documents: how many these are.
    """

    mean: float
    low: float
    high: float
    documents: int


def interval(losses: Sequence[float], others: Sequence[float] = (), confidence: float = CONFIDENCE) -> Interval:
    """What a sample says of the mean.

    Args:
        losses: of documents that had no part in the choice; at least two.
        others: of those that had.
        confidence: of each bound.
    """
    from scipy.special import stdtrit

    count, mean = len(losses), fmean(losses)
    spread = max(_spread(losses), _spread(others))
    if not spread:
        return Interval(mean, mean, mean, count)
    error, quantile = spread / count**0.5, float(stdtrit(count - 1, confidence))
    correction = _skewness(losses, others) / (6 * count**0.5) * (1 + 2 * quantile**2)
    return Interval(mean, mean - quantile * error, mean + (quantile + correction) * error, count)


def _spread(losses: Sequence[float]) -> float:
    return float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0


def _skewness(*samples: Sequence[float]) -> float:
    """Of all samples about their own means, at least 0."""
    centred = np.concatenate([np.subtract(sample, fmean(sample)) for sample in samples if len(sample)])
    square = float((centred**2).mean())
    return max(0.0, float((centred**3).mean()) / square**1.5) if square else 0.0
