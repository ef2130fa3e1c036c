"""Scheduler: who runs in the next step. Queues and page counts, no tensors.

    waiting --admit--> partial --all read--> running --last token--> gone
       ^----give up-------'                   |   ^
                                     preempt  v   |  resume
                                             swapped

A half-done prompt is in chunks, or read whole while the model is still to read what a policy wants behind it: as many
passes at a time as the budget has room for, the oldest prompts' first, whose whole caches end with them.

A reading has no answer: once it is read it rests (`resting.py`), and questions over it, which have waited for that, are
next. Its pages count once, those of a question are its own. One that nobody runs over moves to host memory when there
is too little room, before anything that runs does, and comes back with the next question.

Prefill comes first: the pool is filled, then the whole batch decodes, and finished documents make room for the next. A
dry pool never fails a document that could run: the youngest running sequence moves to host memory and comes back before
anybody new is admitted. While a prefill step runs, every half-done prompt is part of it.

Only an engine's first answer does not wait for a full pool. Where not all that waits will fit, an eighth of the pool is
filled and decoded until one of its answers is there. On an 8B model whose pool holds 424 documents of 4k tokens, read
in 0.1 s each, with decode steps of 33 ms for all of them and 17 ms for few, 256 tokens an answer, that is after
53 * 0.1 + 256 * 0.017 = 10 s instead of 424 * 0.1 + 256 * 0.033 = 51 s. The steps for few are what it costs, seven
eighths of 4.4 s, once: 2.5 % of a job of three pools, less than 1 % from eight on.
"""

from __future__ import annotations

from bisect import insort
from collections import abc, deque
from collections.abc import Callable

import numpy as np

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.resting import Resting, move_out
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.work import Decode, Prefill, Span, Work, with_further
from corm_batch.errors import OutOfPages, Shortage
from corm_batch.kv.cache import KVCache

_HEADROOM = 1.1
"""Predicted entries are taken this much above what was observed."""
_FIRST_GROUP = 1 / 8
"""Of the pool, or of the sequences that may run, before the first answer; see above."""
_MANY_SEQUENCES = 64
"""So few fill up too soon for a part of them to be worth steps of its own."""


class Scheduler:
    """Queues of one engine.

    Args:
        config: budgets.
        cache: asked for page counts, and to move a sequence out of the pool and back.
        most_entries: entries a head of a sequence comes to hold at most, mean over all.
    """

    def __init__(self, config: EngineConfig, cache: KVCache, most_entries: Callable[[Sequence], int]) -> None:
        self.config, self.cache, self.most_entries = config, cache, most_entries
        self.max_running, self.token_budget = config.max_sequences, config.step_token_budget
        self.waiting: deque[Sequence] = deque()
        self.partial: list[Sequence] = []
        self.running: list[Sequence] = []
        self.swapped: list[Sequence] = []
        self.resting = Resting(cache, self.partial, self.running)
        self.kept_ratio: float | None = None  # of late prompts, newer ones weighing more; nothing is known at first
        self._one_prompt_only = False
        self._answered = False
        self._made_room = False

    def add(self, sequence: Sequence) -> None:
        """Queue what has arrived."""
        if not self.resting.holds_up(sequence):
            self.waiting.append(sequence)

    @property
    def num_waiting(self) -> int:
        """Sequences that have not begun."""
        return len(self.waiting) + len(self.resting.pending)

    def schedule(self, num_steps: Callable[[abc.Sequence[Sequence]], int]) -> Work | None:
        """What the next step does: prompts if any can start, else the running answers; None when there is nothing.

        Args:
            num_steps: how many tokens of some sequences are worth a step.
        """
        if spans := self._admit():
            return Prefill(spans)
        return self._reserve(num_steps(self.running)) if self.running else None

    def take_back(self, work: Work, shortage: Shortage) -> Sequence | None:
        """Undo work that found too little memory, so that less is tried at a time.

        Returns:
            The sequence that had all there is to itself, and has to fail; None when there is hope.
        """
        if isinstance(work, Decode):
            if len(work.sequences) == 1:
                return work.sequences[0]
            self._halve()
            return None
        if len(work.spans) > 1 and not isinstance(shortage.error, OutOfPages):
            self.token_budget = work.num_tokens // 2
        made_room, self._made_room = self._made_room, False
        if len(work.spans) == 1 and not self.swapped and not made_room:
            return work.spans[0].sequence
        self.give_up(work.spans)
        return None

    def _admit(self) -> list[Span]:
        """Chunks of half-done prompts, then as many waiting prompts as the budget and the pool admit."""
        self._resume()
        most_behind = self.config.chunk_size if self.config.prefill == "streaming" else None
        spans, room = with_further([self._span(one) for one in self.partial], self.token_budget, most_behind)
        promised = self._growth(self.partial + self.running) if self.waiting else 0
        spare = self.cache.spare(promised) if self.waiting else 0
        self._read_first(spare)
        held_back = self._first_answer_is_due(spare)
        while not held_back and self.waiting and not self.swapped and self._find_place(self.waiting[0].source):
            sequence = self.waiting[0]
            span, pages = self._span(sequence), self._pages(sequence) + self.resting.pages_to_wake(sequence)
            while pages > spare and self.resting.rest(unasked=True):
                spare = self.cache.spare(promised)
            # A prompt beyond the budget has a pass of its own. An idle engine admits whatever comes: only trying shows
            # whether it fits.
            fits = (span.most_tokens <= room or not spans) and pages <= spare
            busy = bool(self.running or self.partial)
            if (busy and (self._one_prompt_only or not fits)) or not self.resting.wake(sequence.source):
                break
            spans.append(self.open(self.waiting.popleft()))
            room -= span.most_tokens
            spare -= pages
        return sorted(spans, key=lambda span: span.reading)  # questions over one side by side

    def _read_first(self, spare: int) -> None:
        """Have a reading go before the few questions in front of it where all of them fit."""
        first = self.resting.goes_first(self.waiting, int(self.token_budget * _FIRST_GROUP))
        places = min(self.max_running - self.num_open, self.cache.num_free_slots)
        fits = len(first) <= places and sum(map(self._pages, first)) <= spare
        if first and fits and not self._one_prompt_only:
            self.waiting.remove(first[0])
            self.waiting.appendleft(first[0])

    def _first_answer_is_due(self, spare: int) -> bool:
        """Whether to decode the engine's first group rather than to fill the pool, which has `spare` pages for more."""
        if self._answered or not (self.running and self.waiting):
            return False
        free_places, num_pages = self.max_running - self.num_open, self.cache.pool.num_pages
        if len(self.waiting) <= free_places and sum(map(self._pages, self.waiting)) <= spare:
            return False
        many_open = self.max_running >= _MANY_SEQUENCES and self.num_open >= _FIRST_GROUP * self.max_running
        return many_open or num_pages - spare >= _FIRST_GROUP * num_pages

    def open(self, sequence: Sequence) -> Span:
        """Begin with a prompt that waits no more; the caller knows that it fits. What of it a pass reads."""
        source = sequence.source
        sequence.slot = self.cache.open() if source is None else self.cache.fork(source.slot)
        insort(self.partial, sequence, key=_arrival)
        return self._span(sequence)

    def _reserve(self, num_steps: int) -> Decode:
        """Running sequences with room for `num_steps` more entries in each of their heads, or for one if there is no
        more; the youngest make room for the others."""
        while self._starved(num_steps):
            if num_steps > 1:
                num_steps = 1
            elif self.resting.rest():
                continue
            elif len(self.running) == 1:
                return Decode(list(self.running), num_steps, starved=True)
            else:
                self.preempt()
        self.cache.reserve(_slots(self.running), num_steps)
        return Decode(sorted(self.running, key=lambda one: one.place), num_steps)

    def prefilled(self, spans: abc.Sequence[Span]) -> None:
        """Book a prefill step: prompts that are done start running; what they kept is what others are expected to."""
        for span in spans:
            if span.ends_reading:
                self._one_prompt_only = False
                self.partial.remove(span.sequence)
                if span.sequence.is_reading:
                    self.waiting.extendleft(reversed(self.resting.add(span.sequence)))
                else:
                    insort(self.running, span.sequence, key=_arrival)
                if not span.sequence.request.uncompressed and not span.sequence.num_shared:
                    self._learn(span.sequence)

    def _learn(self, sequence: Sequence) -> None:
        """Expect of others what a prompt that is done has kept; entries of wide layers count more."""
        lengths, weights = self.cache.table.lengths[sequence.slot], self.cache.layout.weights
        stored = -self.cache.agree(-int(weights @ lengths.sum(axis=1)))
        ratio = stored / (sequence.num_prefilled * weights.sum() * lengths.shape[1])
        self.kept_ratio = ratio if self.kept_ratio is None else 0.8 * self.kept_ratio + 0.2 * ratio

    def give_up(self, spans: abc.Sequence[Span]) -> None:
        """Undo a prefill step that ran out of pages; until one prompt is done, no other joins it."""
        for sequence in sorted({span.sequence for span in spans}, key=_arrival, reverse=True):
            self.cache.close(sequence.slot)
            self.partial.remove(sequence)
            sequence.restart()
            self.waiting.appendleft(sequence)
        self._one_prompt_only = True

    def make_room(self, num_pages: int) -> bool:
        """Preempt until so many pages are free; False when even all that can be moved holds too few."""
        while self.cache.spare(num_pages) < 0:
            if not self.resting.rest():
                if not self.running:
                    return False
                self.preempt()
        self._made_room = True
        return True

    def preempt(self) -> None:
        """Move the youngest running sequence to host memory."""
        sequence = self.running.pop()
        move_out(self.cache, sequence)
        insort(self.swapped, sequence, key=_arrival)

    def _halve(self) -> None:
        """From now on, decode at most half as many sequences at a time as run now."""
        self.max_running = max(1, len(self.running) // 2)
        while len(self.running) > self.max_running:
            self.preempt()

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence from whichever queue it is in; its pages are the caller's to free."""
        self._answered = self._answered or sequence in self.running
        rest = self.resting
        for queue in (self.waiting, self.partial, self.running, self.swapped, rest.pending, rest.readings):
            if sequence in queue:
                queue.remove(sequence)

    def _span(self, sequence: Sequence) -> Span:
        start, stop = sequence.num_prefilled, sequence.num_to_prefill
        if start == stop:
            return Span.behind(sequence)
        if self.config.prefill == "streaming" and sequence.stores:
            stop = min(stop, start + self.config.chunk_size)
        return Span(sequence, start, stop)

    @property
    def num_open(self) -> int:
        """Sequences that have a slot."""
        return len(self.partial) + len(self.running)

    def _find_place(self, source: Sequence | None) -> bool:
        """Whether one more sequence may have a slot; readings that nobody runs over make way, but not its own."""
        if self.num_open >= self.max_running:
            return False
        return bool(self.cache.num_free_slots) or self.resting.rest(but=source)

    def _pages(self, sequence: Sequence) -> int:
        """Pages of its own that a sequence will come to, going by what others kept."""
        if not sequence.stores:
            return 0
        if sequence.num_shared:  # and what it copies of pages that are not full
            own = min(sequence.max_len - sequence.num_shared, self.most_entries(sequence))
            return self.cache.most_pages(own, 2)
        ratio = 1.0
        if self.kept_ratio is not None and not sequence.keeps_all:
            ratio = min(1.0, self.kept_ratio * _HEADROOM)
        entries = min(ratio * sequence.max_len, self.most_entries(sequence))
        return self.cache.most_pages(entries, 1)

    def _growth(self, sequences: abc.Sequence[Sequence]) -> int:
        """Pages that sequences with a slot are still to take."""
        held = self.cache.table.num_own(_slots(sequences))
        return int((np.array([self._pages(one) for one in sequences], np.int64) - held).clip(min=0).sum())

    def _starved(self, num_steps: int) -> bool:
        """Whether the running sequences' next tokens do not fit the pool."""
        return self.cache.spare(self.cache.missing_pages(_slots(self.running), num_steps)) < 0

    def _resume(self) -> None:
        """Bring back swapped sequences, oldest first, while they and everybody's next token fit."""
        while self.swapped and self._find_place(self.swapped[0].source):
            sequence = self.swapped[0]
            source = sequence.source
            assert sequence.swapped is not None
            next_tokens = self.cache.missing_pages(_slots(self.running)) + self.cache.num_lists
            need = sequence.swapped.num_pages + next_tokens + self.resting.pages_to_wake(sequence)
            while self.cache.spare(need) < 0 and self.resting.rest(but=source):
                pass
            if (self.cache.spare(need) < 0 and (self.running or self.partial)) or not self.resting.wake(source):
                return
            sequence.slot = self.cache.swap_in(sequence.swapped, None if source is None else source.slot)
            sequence.swapped = None
            insort(self.running, self.swapped.pop(0), key=_arrival)


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _slots(sequences: abc.Sequence[Sequence]) -> np.ndarray:
    return np.array([sequence.slot for sequence in sequences], dtype=np.int64)
