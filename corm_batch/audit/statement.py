"""What a job states of its answers: how many were verified, what was found, and what that says of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil, floor

from corm_batch.audit.bounds import CONFIDENCE, upper_bound


@dataclass(frozen=True)
class Audited:
    """Counts of documents that were answered under one `verify.share`; added up, of any.

    Attributes:
        audited: whose answers could have been chosen: what a statement calls all.
        verified: of these, held against an uncompressed cache.
        differing: of these, those that it would have answered otherwise.
        rerun: of these, those that it has answered again.
        unverified: of `audited`, those that were chosen and could not be verified.
        scored: with sampled answers, of which only the probabilities were found; not among `audited`.
    """

    audited: int = 0
    verified: int = 0
    differing: int = 0
    rerun: int = 0
    unverified: int = 0
    scored: int = 0

    def __add__(self, other: Audited) -> Audited:
        return Audited(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def bound_of(groups: Sequence[Audited], confidence: float = CONFIDENCE) -> float:
    """The most that differ, as a share of all that are audited, with `confidence`; 1 where none are.

    Documents of different shares were not equally likely to be chosen, so each group has a bound of its own; errors are
    shared out among the groups that were not verified whole. One that could not be verified counts as differing.
    """
    groups = [group for group in groups if group.audited]
    sampled = sum(group.verified < group.audited for group in groups)
    most = 0.0
    for group in groups:
        differing = group.differing + group.unverified
        chosen = group.verified + group.unverified
        if chosen == group.audited:
            most += differing
        else:
            most += group.audited * upper_bound(differing, chosen, 1 - (1 - confidence) / sampled)
    total = sum(group.audited for group in groups)
    return most / total if total else 1.0


def statement(groups: Sequence[Audited]) -> str:
    """In one line; empty where nothing was verified or should have been.

    `verified 60 of 3,000; 1 would have been answered otherwise; with 95 % confidence at most 7.7 % of all`
    """
    total = sum(groups, Audited())
    said = [_compared(total, bound_of(groups))] if total.audited else []
    if total.scored:
        said.append(
            f"scored {total.scored:,} with sampled answers, of which no cache can say what it would have drawn instead"
        )
    return "; ".join(said)


def _compared(total: Audited, bound: float) -> str:
    if not total.verified + total.unverified:
        return f"verified 0 of {total.audited:,}, which says nothing of them"
    whole = total.verified == total.audited
    said = [f"verified {'all ' if whole else ''}{total.verified:,}{'' if whole else f' of {total.audited:,}'}"]
    share = f", {100 * bound:.1f} % of all" if whole and total.differing else ""
    said.append(f"{total.differing:,} would have been answered otherwise{share}")
    if total.rerun:
        said.append(f"{total.rerun:,} answered again without eviction")
    if total.unverified:
        said.append(f"{total.unverified:,} could not be verified, which the bound counts as differing")
    if not whole:
        said.append(f"with {100 * CONFIDENCE:g} % confidence at most {at_most(bound)} of all")
    return "; ".join(said)


def at_most(share: float) -> str:
    """A share that something does not exceed, rounded up: `7.7 %`, `0.05 %`."""
    scale = 10 if share >= 0.01 else 100
    return f"{ceil(100 * scale * share - 1e-9) / scale:g} %"


def more_than(share: float) -> str:
    """A share that something exceeds, rounded down."""
    scale = 10 if share >= 0.01 else 100
    return f"{floor(100 * scale * share + 1e-9) / scale:g} %"
