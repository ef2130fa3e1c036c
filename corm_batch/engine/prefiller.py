"""Prefiller: one forward pass over prompt tokens, run again with more room where the pool was too small for it."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable

import torch
from torch import Tensor

from corm_batch.engine.batch import ChunkBatch, PrefillBatch
from corm_batch.engine.eviction import Eviction
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rotary import rotary_for
from corm_batch.engine.work import Span
from corm_batch.errors import OutOfPages


class Prefiller:
    """Prefill steps of one replica.

    Args:
        model: whose forward pass a step is.
        eviction: which entries survive, in which cache.
        streaming: prompts come in chunks.
        make_room: frees pages of sequences outside the step until so many are free; False when there are too few.
    """

    def __init__(
        self,
        model: LoadedModel,
        eviction: Eviction,
        streaming: bool,
        make_room: Callable[[int], bool],
    ) -> None:
        self.model, self.eviction, self.make_room = model, eviction, make_room
        self.rotary = rotary_for(model, eviction.policies)
        self._kind = ChunkBatch if streaming else PrefillBatch

    def run(self, spans: abc.Sequence[Span]) -> Tensor:
        """Logits of the spans that end a prompt; what the spans keep is in the cache.

        Raises:
            OutOfPages: the pool is too small; what earlier chunks of these prompts left is lost.
            torch.OutOfMemoryError: so is the device's memory; likewise.
        """
        while True:
            batch = self._kind(spans, self.eviction, self.rotary)
            try:
                logits = self.model.forward(batch)
                batch.commit()
                return logits
            except torch.OutOfMemoryError:
                batch.discard()
                raise
            except OutOfPages as error:
                enough = self.make_room(self.eviction.cache.pool.num_free + error.num_missing)
                if not enough or any(span.start for span in spans):
                    raise
