"""Resting: documents that have been read lie in the pool, or in host memory while nobody runs over them.

Page counts and queues, no tensors; who runs is the scheduler's to say.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import abc
from itertools import islice, takewhile

from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache

_MANY_QUESTIONS = 32
"""As many are worth a pass of their own: on an 8B model one over eight questions takes some 20 ms, mostly launches, and
the document of 16k tokens that they are about half a second."""


class Resting:
    """Readings of one engine from when they are read, and the questions over those that are not read yet.

    Args:
        cache: where they are.
        queues: of what has a slot: the scheduler's own, as they change.
    """

    def __init__(self, cache: KVCache, *queues: abc.Sequence[Sequence]) -> None:
        self.cache, self._queues = cache, queues
        self.readings: list[Sequence] = []
        self.pending: list[Sequence] = []

    def holds_up(self, sequence: Sequence) -> bool:
        """Whether it waits, from now on, for its reading to be read."""
        if sequence.source is None or sequence.source in self.readings:
            return False
        self.pending.append(sequence)
        return True

    def add(self, reading: Sequence) -> list[Sequence]:
        """One that has been read; the questions that have waited for it."""
        insort(self.readings, reading, key=lambda one: one.arrival)
        ready = [one for one in self.pending if one.source is reading]
        for question in ready:
            question.ready_at = time.monotonic()
        self.pending[:] = [one for one in self.pending if one.source is not reading]
        return ready

    def goes_first(self, waiting: abc.Iterable[Sequence], most_tokens: int) -> list[Sequence]:
        """A reading that had better be read before the few questions in front of it are, and these; nothing where there
        is none. Prefill comes first in any case, and a pass over few tokens takes almost as long as one over hundreds.

        Args:
            waiting: the queue.
            most_tokens: of questions, from which on these are many.
        """
        asked = list(takewhile(lambda one: one.source is not None, waiting))
        num_tokens = sum(one.num_to_prefill - one.num_prefilled for one in asked)
        behind = list(islice(waiting, len(asked), len(asked) + 1))
        few = 0 < len(asked) < _MANY_QUESTIONS and num_tokens < most_tokens
        here = all(one.source is not None and one.source.swapped is None for one in asked)
        return [*behind, *asked] if few and here and behind and behind[0].is_reading else []

    def rest(self, *, unasked: bool = False, but: Sequence | None = None) -> bool:
        """Move the youngest reading that nobody runs over to host memory; False when there is none.

        Args:
            unasked: only one that no question waits for.
            but: not this one.
        """
        asked = {one.source for queue in self._queues for one in queue} | {but}
        for reading in reversed(self.readings):
            if reading.slot >= 0 and reading not in asked and not (unasked and reading.num_questions):
                move_out(self.cache, reading)
                return True
        return False

    def wake(self, reading: Sequence | None) -> bool:
        """Have a reading in the pool, with a slot left for a question over it; False when there is no room."""
        if reading is None or reading.swapped is None:
            return True
        while self.cache.spare(reading.swapped.num_pages) < 0 or self.cache.num_free_slots < 2:
            if not self.rest():
                return False
        reading.slot, reading.swapped = self.cache.swap_in(reading.swapped), None
        return True

    def pages_to_wake(self, sequence: Sequence) -> int:
        """Pages that its reading takes to come back, where that is in host memory."""
        swapped = None if sequence.source is None else sequence.source.swapped
        return 0 if swapped is None else -self.cache.agree(-swapped.num_pages)


def move_out(cache: KVCache, sequence: Sequence) -> None:
    """Move what is a sequence's own to host memory."""
    sequence.peak_pages = max(sequence.peak_pages, int(cache.peak_pages[sequence.slot]))
    sequence.swapped, sequence.slot = cache.swap_out(sequence.slot), -1
    sequence.preemptions += 1
