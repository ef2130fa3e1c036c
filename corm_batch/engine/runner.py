"""Runner: runs what the scheduler chose, keeps the cache's books of it and its documents' shares of the time."""

from __future__ import annotations

import time

import numpy as np
import torch

from corm_batch.engine.decoder import Decoder
from corm_batch.engine.eviction import Eviction
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.prefiller import Prefiller
from corm_batch.engine.sampler import prepare, sample
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.stats import EngineStats
from corm_batch.engine.work import Chosen, Decode, Prefill, Work
from corm_batch.errors import OutOfPages, Shortage


class Runner:
    """Forward passes of one replica.

    Args:
        model: whose these are.
        eviction: which entries survive, in which cache.
        decoder: steps over one token of every sequence.
        scheduler: frees pages for a pass that finds too few, and is told of prompts that are done.
        streaming: prompts come in chunks.
        stats: what counts passes and shares their seconds.
    """

    def __init__(
        self,
        model: LoadedModel,
        eviction: Eviction,
        decoder: Decoder,
        scheduler: Scheduler,
        streaming: bool,
        stats: EngineStats,
    ) -> None:
        self.model, self.cache, self.stats = model, eviction.cache, stats
        self.decoder, self.scheduler = decoder, scheduler
        self.prefiller = Prefiller(model, eviction, streaming, scheduler.make_room)

    def run(self, work: Work) -> Chosen:
        """The next tokens of the work's sequences.

        Raises:
            Shortage: the pool, or the device, is too small for it.
        """
        return self._prefill(work) if isinstance(work, Prefill) else self._decode(work)

    def _prefill(self, work: Prefill) -> Chosen:
        """One token of every sequence whose prompt ends."""
        started = time.monotonic()
        for span in work.spans:
            span.sequence.started_at = span.sequence.started_at or started
        try:
            logits = self.prefiller.run(work.spans)
        except (OutOfPages, torch.OutOfMemoryError) as error:
            raise Shortage(error) from error
        self.scheduler.prefilled(work.spans)
        self.stats.most_in_flight = max(self.stats.most_in_flight, self.scheduler.num_open)
        tokens, logprobs = [], []
        if ended := work.sequences:
            for sequence in ended:
                sequence.pages_after_prefill = self.cache.pages_held(sequence.slot)
            tokens, logprobs = ([column.tolist()] for column in sample(logits, prepare(self.model, ended, 1)))
        self.stats.prefilled(work.spans, time.monotonic() - started)
        return Chosen(tokens, logprobs)

    def _decode(self, work: Decode) -> Chosen:
        """Some tokens of every sequence."""
        if work.starved:
            raise Shortage(OutOfPages(self.cache.num_lists - self.cache.pool.num_free))
        slots = np.array([sequence.slot for sequence in work.sequences])
        started = time.monotonic()
        try:
            chosen = self.decoder.run(work.sequences, work.num_steps)
        except torch.OutOfMemoryError as error:
            self.cache.table.set_lengths(slots, self.cache.table.lengths[slots])  # some steps may have appended
            raise Shortage(error) from error
        self.cache.advance(slots, work.num_steps)
        self.stats.decoded(work.sequences, work.num_steps, time.monotonic() - started)
        return Chosen(*chosen)
