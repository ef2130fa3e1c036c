"""Bounds of the share of documents that an uncompressed cache would have answered otherwise.

`upper_bound` is for one look, when a job is over. `lower_bound` may be looked at after every document.
"""

from __future__ import annotations

from math import exp, log, log1p

CONFIDENCE = 0.95
_PRIOR = 0.5  # of both sides: the share may be anywhere


def upper_bound(differing: int, verified: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided bound: under a larger share, so few or fewer of `verified` documents would differ
    with a probability below 1 - `confidence`; 1 where none was verified.

    Exact for independent documents, and on the safe side for a sample of a job's own.
    """
    from scipy.special import betaincinv  # here: a command line that states nothing starts without it

    if differing >= verified:
        return 1.0
    return float(betaincinv(differing + 1, verified - differing, confidence))


def lower_bound(differing: int, verified: int, confidence: float = CONFIDENCE) -> float:
    """The lower end of a confidence sequence: with probability `confidence` it is never above the share, however often
    it is looked at while `verified` grows.

    Robbins' mixture (1970; Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", Annals of Statistics 49): the probability of what was found under a Beta(1/2, 1/2) mixture of
    shares, over that under the true one, is a martingale that starts at 1. By Ville's inequality it ever reaches
    1 / (1 - confidence) with probability 1 - confidence at most. The bound is the smallest share at which it has not.
    """
    from scipy.optimize import brentq
    from scipy.special import betaln

    if not differing:
        return 0.0
    others = verified - differing
    mixture = float(betaln(_PRIOR + differing, _PRIOR + others) - betaln(_PRIOR, _PRIOR))
    limit = -log(1 - confidence)

    def excess(share: float) -> float:
        return mixture - differing * log(share) - (others * log1p(-share) if others else 0.0) - limit

    least = exp((mixture - limit) / differing)  # the root of a part of it, and the whole is larger
    return float(brentq(excess, least * (1 - 1e-9), differing / verified, xtol=1e-12))
