"""Readings: what callers hold of the documents that a replica has read, or is to read, and when these end.

A reading ends when it is closed and the last question over it has been answered; one that fails takes the questions
that wait for it with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from corm_batch.engine.evictions import Evictions
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Request
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import DocumentError


class Readings:
    """Those of one replica that have not ended.

    Args:
        evictions: what stays of them, in which cache.
        scheduler: told of those that end.
        memory: what one has cost, as it stands.
    """

    def __init__(self, evictions: Evictions, scheduler: Scheduler, memory: Callable[[Sequence], MemoryStats]) -> None:
        self._evictions, self._scheduler, self._memory = evictions, scheduler, memory
        self._live: dict[str, tuple[SharedReading, Sequence]] = {}

    @property
    def has_work(self) -> bool:
        """Whether one is still to be read."""
        return any(sequence not in self._scheduler.resting.readings for _, sequence in self._live.values())

    def open(self, reading: SharedReading, sequence: Sequence) -> None:
        """A new one, and how it is run.

        Raises:
            ValueError: one with this id has not ended.
        """
        if reading.id in self._live:
            raise ValueError(f"a reading with id {reading.id!r} is still open")
        self._live[reading.id] = reading, sequence

    def find_problem(self, request: Request) -> DocumentError | None:
        """Why the request cannot be asked over its reading; None when it can, or has none."""
        if request.reading is None:
            return None
        reading, _ = self._live.get(request.reading.id, (request.reading, None))
        if reading.error is not None:
            return DocumentError(f"the reading failed: {reading.error}")
        if reading.is_closed:
            return DocumentError("the reading is closed: nothing more can be asked over it")
        if reading.id not in self._live:
            return DocumentError("the reading is another engine's")
        if request.uncompressed and request.answer_ids is None and not reading.uncompressed:
            return DocumentError("a request that keeps every entry needs a reading that does (uncompressed=True)")
        return None

    def source(self, request: Request) -> Sequence | None:
        """The reading whose entries the request begins with; None for none: an exact pass that scores an answer reads
        all by itself."""
        alone = request.answer_ids is not None and request.uncompressed
        if request.reading is None or alone or self.find_problem(request) is not None:
            return None
        _, sequence = self._live[request.reading.id]
        sequence.num_questions += 1
        return sequence

    def read(self, sequence: Sequence) -> None:
        """One has been read: what it holds now is what every question sees."""
        reading, _ = self._live[sequence.request.id]
        self._evictions.settle(sequence)
        reading.memory = self._memory(sequence)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """One cannot be read; the questions that wait for it are the caller's to fail."""
        reading, _ = self._live[sequence.request.id]
        reading.error = error
        self._end(reading, sequence)

    def close(self, reading_id: str) -> None:
        """Nothing more is asked over one; those that have ended are ignored."""
        if reading_id in self._live:
            reading, sequence = self._live[reading_id]
            reading.is_closed = True
            if not sequence.num_questions:
                self._end(reading, sequence)

    def answered(self, sequence: Sequence) -> None:
        """A question over one has ended."""
        sequence.num_questions -= 1
        if sequence.request.id in self._live:
            reading, _ = self._live[sequence.request.id]
            reading.memory = replace(reading.memory, preemptions=sequence.preemptions)
            if reading.is_closed:
                self.close(reading.id)

    def _end(self, reading: SharedReading, sequence: Sequence) -> None:
        """Let its pages go."""
        done = sequence in self._scheduler.resting.readings
        memory = reading.memory if done else self._memory(sequence)
        reading.memory = replace(memory, preemptions=sequence.preemptions)
        self._scheduler.remove(sequence)
        if sequence.slot >= 0:
            self._evictions.cache.close(sequence.slot)
        del self._live[reading.id]
