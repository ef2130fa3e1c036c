"""Paired differences: how much better or worse the same cases did, and how sure one may be of it.

Of shares the interval is exact and holds for any number of cases: with 95 % confidence, by Clopper and Pearson's bounds
(at 97.5 % each) on the share of cases that were lost and on that of cases that were won. It never has width zero: that
none of 16 cases was lost leaves up to 24 % that could be. McNemar's exact test says how likely differences as uneven as
these are by chance. Of means it is Student's, over the differences of the pairs; differences that are all the same have
no interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

CONFIDENCE = 0.95


class Difference(BaseModel):
    """The mean of `there - here` over pairs.

    Attributes:
        cases: pairs.
        here, there: means of both sides.
        difference: `there - here`.
        low, high: its 95 % interval; None where none can be given.
        interval: how that was computed.
        lost, won: pairs whose score is lower there, or higher.
        p_value: of McNemar's exact test; None of means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: int
    here: float
    there: float
    difference: float
    low: float | None
    high: float | None
    interval: Literal["exact binomial, paired", "Student's t, paired"]
    lost: int
    won: int
    p_value: float | None = None


def paired_shares(here: Sequence[float], there: Sequence[float]) -> Difference:
    """Of scores that are 0 or 1, pair by pair; at least one."""
    first, second = np.asarray(here, float), np.asarray(there, float)
    count, lost, won = len(first), int(np.sum(second < first)), int(np.sum(second > first))
    lost_low, lost_high = share_bounds(lost, count, (1 + CONFIDENCE) / 2)
    won_low, won_high = share_bounds(won, count, (1 + CONFIDENCE) / 2)
    return Difference(
        cases=count, here=first.mean(), there=second.mean(), difference=(won - lost) / count,
        low=won_low - lost_high, high=won_high - lost_low, interval="exact binomial, paired", lost=lost, won=won,
        p_value=float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0,
    )  # fmt: skip


def paired_means(here: Sequence[float], there: Sequence[float]) -> Difference:
    """Of any scores, pair by pair; at least one."""
    first, second = np.asarray(here, float), np.asarray(there, float)
    differences = second - first
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / count**0.5 if count > 1 else 0.0
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error if error else None
    return Difference(
        cases=count, here=first.mean(), there=second.mean(), difference=mean,
        low=None if margin is None else mean - margin, high=None if margin is None else mean + margin,
        interval="Student's t, paired", lost=int(np.sum(differences < 0)), won=int(np.sum(differences > 0)),
    )  # fmt: skip


def share_bounds(hits: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's two-sided bounds on a share, 0..1; all of it when nothing was counted."""
    if not count:
        return 0.0, 1.0
    found = stats.binomtest(hits, count).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
