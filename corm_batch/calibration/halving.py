"""Halving: which policies stay in the race, which come to the final, and which of those has won.

Many are tried on few documents, fewer on more. What counts is a front, not a rank: the fewest bytes that lose no more
than the limit are wanted, and whether a policy does is not known before the end. Knows nothing of engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import fmean

from corm_batch.calibration.bound import CONFIDENCE, Interval, interval

FACTOR = 3
"""Of so many policies one goes on."""
FINALISTS = 3
_FIRST = 0.8
"""Share of the risk that a bound is wrong which the first finalist's has, where there are others."""
_CLEARLY = 0.9
"""Confidence at which a policy is taken to lose too much while the race goes on."""


@dataclass(frozen=True)
class Standing:
    """How a policy has done so far.

    Attributes:
        losses: nats a token, document by document.
        peak_ratio: bytes held at most over those of an uncompressed cache.
    """

    losses: Sequence[float]
    peak_ratio: float

    @cached_property
    def mean(self) -> float:
        """Of the losses."""
        return fmean(self.losses)


def round_sizes(num_policies: int) -> list[int]:
    """How many policies each round begins with, the final left out: 21 policies make rounds of 21 and 7."""
    sizes = [num_policies]
    while sizes[-1] > FACTOR * FINALISTS:
        sizes.append(-(-sizes[-1] // FACTOR))
    return sizes


def survivors(standings: Mapping[str, Standing], limit: float, count: int) -> list[str]:
    """The `count` that go on: those that do not clearly lose too much, the front of loss against bytes before what it
    leaves behind, and of one front those whose loss is nearest to the limit."""
    place = {label: depth for depth, front in enumerate(fronts(standings)) for label in front}

    def order(label: str) -> tuple[bool, int, float]:
        standing = standings[label]
        return _loses_too_much(standing, limit), place[label], abs(standing.mean - limit)

    found = sorted(standings, key=order)[:count]
    within = _within(standings, limit)
    if within and within[-1] not in found:  # those of few bytes may turn out to lose more on other documents
        found[-1] = within[-1]
    return found


def fronts(standings: Mapping[str, Standing]) -> list[list[str]]:
    """Fronts one behind the other: no policy of a front loses less than another of it with as few bytes."""
    left, found = dict(standings), []
    while left:
        front = [label for label, one in left.items() if not any(_beats(other, one) for other in left.values())]
        found.append(front)
        left = {label: one for label, one in left.items() if label not in front}
    return found


def finalists(standings: Mapping[str, Standing], limit: float) -> list[str]:
    """Those to be confirmed, three at most: of those that seem to meet the limit, by bytes, the first ones up to one
    that most likely does; behind them one between and that of the most bytes, should these turn out not to. Where none
    seems to meet it, the one that loses least."""
    within = _within(standings, limit)
    if not within:
        return [min(standings, key=lambda label: standings[label].mean)]
    first = [label for label in within[: FINALISTS - 1] if interval(standings[label].losses).high <= limit][:1]
    count = within.index(first[0]) + 1 if first else FINALISTS - 1
    between = _between(within[count - 1 :], standings) if count < FINALISTS - 1 else []
    return list(dict.fromkeys([*within[:count], *between, within[-1]]))


def _between(ordered: Sequence[str], standings: Mapping[str, Standing]) -> list[str]:
    """Of labels by bytes, fewest first, the one whose bytes are the nearest to as many times the first's as the last's
    are times its own; none where there are no others."""
    if len(ordered) < 3:
        return []
    logs = {label: log(standings[label].peak_ratio) for label in ordered}
    middle = (logs[ordered[0]] + logs[ordered[-1]]) / 2
    return [min(ordered[1:-1], key=lambda label: abs(logs[label] - middle))]


def _within(standings: Mapping[str, Standing], limit: float) -> list[str]:
    """Those that seem to meet the limit, fewest bytes first. That of the most is taken to be the safest: losses near 0
    do not tell which one is."""
    found = [label for label, one in standings.items() if one.mean <= limit]
    return sorted(found, key=lambda label: standings[label].peak_ratio)


def confirmed(held_out: Mapping[str, Sequence[float]], chosen_on: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """What each finalist loses, by documents that had no part in the choice. All bounds hold together, so the best of
    those that meet the limit may be taken; the first one's is the narrowest.

    Args:
        held_out, chosen_on: losses of the finalists, in their order, on documents of either kind.
    """
    risks = [1.0] if len(held_out) == 1 else [_FIRST, *[(1 - _FIRST) / (len(held_out) - 1)] * (len(held_out) - 1)]
    return {
        label: interval(losses, chosen_on[label], 1 - (1 - CONFIDENCE) * risk)
        for (label, losses), risk in zip(held_out.items(), risks, strict=True)
    }


def _loses_too_much(standing: Standing, limit: float) -> bool:
    if len(standing.losses) < 2:
        return False
    return interval(standing.losses, confidence=_CLEARLY).low > limit


def _beats(one: Standing, other: Standing) -> bool:
    """Whether it is no worse in either, and better in one."""
    mine, others = (one.mean, one.peak_ratio), (other.mean, other.peak_ratio)
    return mine != others and all(a <= b for a, b in zip(mine, others, strict=True))
