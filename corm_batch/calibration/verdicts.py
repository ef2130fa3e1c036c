"""Verdicts: what became of every policy, in words that a result holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from corm_batch.audit.bounds import upper_bound
from corm_batch.calibration.bound import Interval, interval
from corm_batch.calibration.contest import FULL, Contest
from corm_batch.calibration.halving import confirmed
from corm_batch.calibration.loss import DocumentLoss, peak_ratio
from corm_batch.calibration.result import Loss, State, Tried


@dataclass(frozen=True)
class Verdicts:
    """What a contest has come to.

    Args:
        contest: that is over.
        fields: each policy's section of a spec, by label.
    """

    contest: Contest
    fields: Mapping[str, Mapping[str, object]]

    @property
    def chosen(self) -> str | None:
        """The finalist of the fewest bytes whose bound meets the limit; None where none does."""
        within = [label for label, found in self.bounds.items() if found.high <= self.contest.limit]
        return min(within, key=self._peak_ratio, default=None)

    @property
    def best(self) -> str | None:
        """Of the finalists the one of the lowest bound; None where none was confirmed."""
        return min(self.bounds, key=lambda label: self.bounds[label].high, default=None)

    def tried(self) -> Iterator[Tried]:
        """The full cache, then every policy."""
        for label in (FULL, *self.contest.measuring.policies):
            chosen_on, held_out = (
                self.contest.measuring.of(label, ids) for ids in (self.contest.chosen_on, self.contest.held_out)
            )
            nats = _nats([*chosen_on, *held_out] if label == FULL else chosen_on)
            judged = held_out if label in self.contest.finalists and held_out else chosen_on
            compared = [one.changed for one in judged if one.changed is not None]
            changed = sum(compared) if compared else None
            yield Tried(
                label=label,
                policy=self.fields.get(label, {"name": FULL}),
                state=self._state(label),
                chosen_on=_loss(interval(nats)) if len(nats) > 1 else None,
                held_out=_loss(self.bounds[label]) if label in self.bounds else None,
                changed=changed,
                compared=len(compared),
                changed_at_most=None if changed is None else upper_bound(changed, len(compared)),
                peak_ratio=self._peak_ratio(label),
                documents_per_hour=_per_hour([*chosen_on, *held_out]),
                failure=self.contest.measuring.failed.get(label),
            )

    @property
    def bounds(self) -> dict[str, Interval]:
        """What each finalist loses on all documents, by those that had no part in the choice; nothing without them."""
        losses = {
            label: self._losses(label) for label in self.contest.finalists if label not in self.contest.measuring.failed
        }
        if not losses or len(self.contest.held_out) < 2:
            return {}
        chosen_on, held_out = ({label: _nats(two[side]) for label, two in losses.items()} for side in (0, 1))
        return confirmed(held_out, chosen_on)

    def _losses(self, label: str) -> tuple[list[DocumentLoss], list[DocumentLoss]]:
        """On documents that chose, and on those that did not."""
        of, contest = self.contest.measuring.of, self.contest
        return of(label, contest.chosen_on), of(label, contest.held_out)

    def _state(self, label: str) -> State:
        if label == FULL:
            return "full cache"
        if label in self.contest.measuring.failed:
            return "failed"
        if label == self.chosen:
            return "chosen"
        if label in self.bounds:
            return "within" if self.bounds[label].high <= self.contest.limit else "above"
        if label in self.contest.finalists:
            return "not confirmed"
        mine, full = self._peak_ratio(label), self._peak_ratio(FULL)
        return "keeps all" if mine is not None and full is not None and mine >= full else "dropped"

    def _peak_ratio(self, label: str) -> float:
        return peak_ratio([loss for losses in self._losses(label) for loss in losses])


def _nats(losses: Sequence[DocumentLoss]) -> list[float]:
    return [one.nats for one in losses if math.isfinite(one.nats)]


def _loss(found: Interval) -> Loss:
    return Loss(documents=found.documents, mean=found.mean, low=found.low, high=found.high)


def _per_hour(losses: Sequence[DocumentLoss]) -> float | None:
    seconds = sum(one.seconds for one in losses)
    return 3600 * len(losses) / seconds if seconds else None
