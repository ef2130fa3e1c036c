"""Runner: runs what the scheduler chose, keeps the cache's books of it and its documents' shares of the time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.decoder import Decoder
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.prefiller import Prefiller
from corm_batch.engine.sampler import prepare, sample
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Chosen
from corm_batch.engine.stats import EngineStats
from corm_batch.engine.work import Decode, Prefill, Work
from corm_batch.errors import OutOfPages, Shortage


class Runner:
    """Forward passes of one replica.

    Args:
        model: whose these are.
        evictions: which entries survive, in which cache.
        decoder: steps over one token of every sequence.
        scheduler: frees pages for a pass that finds too few, and is told of prompts that are done.
        streaming: prompts come in chunks.
        stats: what counts passes and shares their seconds.
    """

    def __init__(
        self,
        model: LoadedModel,
        evictions: Evictions,
        decoder: Decoder,
        scheduler: Scheduler,
        streaming: bool,
        stats: EngineStats,
    ) -> None:
        self.model, self.evictions, self.cache, self.stats = model, evictions, evictions.cache, stats
        self.decoder, self.scheduler = decoder, scheduler
        self.prefiller = Prefiller(model, evictions, streaming, scheduler.make_room)

    def run(self, work: Work) -> list[Chosen]:
        """The next tokens of each of the work's sequences.

        Raises:
            Shortage: the pool, or the device, is too small for it.
        """
        return self._prefill(work) if isinstance(work, Prefill) else self._decode(work)

    def _prefill(self, work: Prefill) -> list[Chosen]:
        """One token of every sequence whose prompt ends, or all of an answer that one pass scores; where more is to be
        read behind the prompt, once that is done and the budget applied."""
        started = time.monotonic()
        for span in work.spans:
            span.sequence.started_at = span.sequence.started_at or started
        try:
            self.choose(work, self.prefiller.run(work.spans))
        except OutOfPages as error:
            raise Shortage(error) from error
        except torch.OutOfMemoryError as error:
            self.model.check_alone(error)
            raise Shortage(error) from error
        return self.prefilled(work, time.monotonic() - started)

    def prefilled(self, work: Prefill, seconds: float) -> list[Chosen]:
        """Book a pass over prompts that took so many seconds, and let go of what does not stay of prompts read whole.

        Returns:
            What was chosen for each of the sequences whose answers begin.
        """
        for span in work.spans:
            span.count()
        self.evictions.compact([one for one in work.sequences if one.extra_passes])
        self.scheduler.prefilled(work.spans)
        self.stats.most_in_flight = max(self.stats.most_in_flight, self.scheduler.num_open)
        for sequence in work.sequences:
            sequence.pages_after_prefill = self.cache.pages_held(sequence.slot)
        self.stats.prefilled(work.spans, seconds)
        return [one.beginning for one in work.sequences if one.beginning is not None]

    def choose(self, work: Prefill, passes: Iterable[Tensor]) -> None:
        """Note the tokens that a pass over prompts chooses; its logits come some rows at a time."""
        rows, columns = work.rows, [list[Any]() for _ in Chosen._fields]
        for logits in passes:
            done = len(columns[0])
            if len(logits):
                sampled = sample(logits, prepare(self.model, rows[done : done + len(logits)], 1))
                for column, more in zip(columns, sampled.columns(), strict=True):
                    column += more
        chosen = Chosen(*columns)
        for span, stop in zip(work.spans, np.cumsum([span.num_chosen for span in work.spans]).tolist(), strict=True):
            if span.ends_prompt:
                span.sequence.beginning = chosen.part(stop - span.num_chosen, stop)

    def _decode(self, work: Decode) -> list[Chosen]:
        """Some tokens of every sequence."""
        if work.starved:
            raise Shortage(OutOfPages(self.cache.num_lists - self.cache.pool.num_free))
        slots = np.array([sequence.slot for sequence in work.sequences])
        started = time.monotonic()
        try:
            chosen = self.decoder.run(work.sequences, work.num_steps)
        except torch.OutOfMemoryError as error:
            self.model.check_alone(error)
            self.cache.table.set_lengths(slots, self.cache.table.lengths[slots])  # some steps may have appended
            raise Shortage(error) from error
        self.cache.advance(slots, work.num_steps)
        self.stats.decoded(work.sequences, work.num_steps, time.monotonic() - started)
        return chosen
