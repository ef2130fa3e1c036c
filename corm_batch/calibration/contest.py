"""Contest: rounds of fewer and fewer policies on more and more documents, then the final, all within a time.

Documents are taken in steps that grow, each no longer than the time left for its round allows by what tokens took in
the step before. Knows nothing of how losses are found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from corm_batch.calibration.halving import Standing, finalists, round_sizes, survivors
from corm_batch.calibration.loss import DocumentLoss, peak_ratio
from corm_batch.data.document import Document
from corm_batch.policies.base import KVPolicy

FULL = "full"
"""The label of the full cache."""
FEWEST = 2
"""Documents that a round, and the final, take whatever the time, as long as there is any."""
_CAUTION = 1.2
"""Of so many times what documents took the next ones are taken to take: they may be longer."""
_CHOOSING = 0.5
"""Share of the time that choosing takes; the final has the rest."""


class Measuring(Protocol):
    """What finds losses."""

    @property
    def policies(self) -> Mapping[str, KVPolicy]:
        """By label, without the full cache."""

    @property
    def failed(self) -> dict[str, str]:
        """Why a policy is out of the contest."""

    def run(self, documents: Sequence[Document], labels: Sequence[str]) -> list[str]:
        """Measure these policies, and the full cache, on documents; the ids of those that have an answer."""

    def of(self, label: str, documents: Sequence[str]) -> list[DocumentLoss]:
        """What a policy lost on these documents, as far as it was tried on them."""


@dataclass(frozen=True)
class Progress:
    """How far a contest is.

    Attributes:
        stage: 1 for the first round, and so on; `stages` for the final.
        policies: in it.
        documents: that it has had.
        seconds: since it all began.
    """

    stage: int
    stages: int
    policies: int
    documents: int
    seconds: float


@dataclass
class Clock:
    """Documents in steps of growing size, as long as the time lasts.

    Attributes:
        started, end: monotonic seconds.
        each: seconds that a token took the last time; None before the first.
        step: documents at a time.
    """

    started: float
    end: float
    each: float | None = None
    step: int = 1

    def affordable(self, sizes: Sequence[int], until: float) -> int:
        """Documents to take now, of those of so many tokens that come next; 0 where there is no time for one more."""
        if self.each is None:
            return min(len(sizes), 1)
        time_left = min(until, self.end) - time.monotonic()
        costs = accumulate(size * self.each * _CAUTION for size in sizes[: self.step])
        return sum(cost <= time_left for cost in costs)

    def took(self, sizes: Sequence[int], seconds: float) -> None:
        """Note a step over documents of so many tokens."""
        self.each, self.step = seconds / sum(sizes), 2 * max(len(sizes), self.step)


@dataclass
class Contest:
    """Policies against each other.

    Args:
        documents: the first half may stand in any order, as these choose; the others are a sample of all.
        measuring: what finds losses.
        limit: nats a token that may be lost.
        clock: when it ends.
        sizes: tokens of the prompts about each document, by id, of all of them or of none.
        on_progress: called after every step.

    Attributes:
        chosen_on, held_out: ids of documents that chose, and that did not, as far as they have an answer.
        finalists: labels, once they are known; none where no policy is left that frees anything.
    """

    documents: Sequence[Document]
    measuring: Measuring
    limit: float
    clock: Clock
    sizes: Mapping[str, int] = field(default_factory=dict)
    on_progress: Callable[[Progress], None] = lambda progress: None
    chosen_on: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    finalists: list[str] = field(default_factory=list)
    _taken: int = 0

    def run(self) -> None:
        """All rounds, and the final."""
        labels = list(self.measuring.policies)
        sizes, half = round_sizes(len(labels)), len(self.documents) // 2
        time_to_choose = (self.clock.end - self.clock.started) * _CHOOSING
        for number, size in enumerate(sizes, 1):
            labels = labels if number == 1 else survivors(self._standings(labels), self.limit, size)
            most = half * number * (number + 1) // (len(sizes) * (len(sizes) + 1))
            most = min(max(most, self._taken + FEWEST), len(self.documents) - FEWEST)
            until = self.clock.started + time_to_choose * number / len(sizes)
            self.chosen_on += self._stage(number, len(sizes) + 1, labels, most, until)
        standings = self._standings(labels)
        if standings:
            self.finalists = finalists(standings, self.limit)
            self._taken = max(self._taken, half)  # the others are as they were drawn
            stages = len(sizes) + 1
            self.held_out += self._stage(stages, stages, self.finalists, len(self.documents), self.clock.end)

    def _stage(self, number: int, stages: int, labels: Sequence[str], most: int, until: float) -> list[str]:
        """Documents under these policies, until `most` were taken in all or the time is over; those with an answer."""
        done: list[str] = []
        while self._taken < most:
            running = [label for label in labels if label not in self.measuring.failed]
            sizes = [self.sizes.get(document.doc_id, 1) for document in self.documents[self._taken : most]]
            count = self.clock.affordable(sizes, until if len(done) >= FEWEST else self.clock.end)
            if not count:
                break
            started = time.monotonic()
            done += self.measuring.run(self.documents[self._taken : self._taken + count], running)
            self._taken += count
            self.clock.took(sizes[:count], time.monotonic() - started)
            seconds = time.monotonic() - self.clock.started
            self.on_progress(Progress(number, stages, len(running), len(done), seconds))
        return done

    def _standings(self, labels: Sequence[str]) -> dict[str, Standing]:
        """Of policies that are still in the contest and free anything."""
        full = peak_ratio(self.measuring.of(FULL, self.chosen_on))
        found = {}
        for label in labels:
            losses = self.measuring.of(label, self.chosen_on)
            if label not in self.measuring.failed and losses and (ratio := peak_ratio(losses)) < full:
                found[label] = Standing([one.nats for one in losses], ratio)
        return found
