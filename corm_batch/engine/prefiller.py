"""Prefiller: one forward pass over prompt tokens, run again with more room where the pool was too small for it."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from corm_batch.engine.attention import Running
from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.chunk_batch import ChunkBatch
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.rotary import rotary_for
from corm_batch.engine.work import Span
from corm_batch.errors import OutOfPages

_FEWEST_ROWS, _LOGITS = 128, 1 << 24
"""Rows whose logits there are at once: so many logits, 64 MiB of float32, or of a large vocabulary as many as make a
matrix product worth its while."""


class Prefiller:
    """Prefill steps of one replica.

    Args:
        model: whose forward pass a step is.
        evictions: which entries survive, in which cache.
        streaming: prompts come in chunks.
        make_room: frees pages of sequences outside the step until so many are free; False when there are too few.
    """

    def __init__(
        self,
        model: LoadedModel,
        evictions: Evictions,
        streaming: bool,
        make_room: Callable[[int], bool],
    ) -> None:
        self.model, self.evictions, self.make_room = model, evictions, make_room
        self.rotary = rotary_for(model, evictions.policies)
        self._kind = ChunkBatch if streaming else PrefillBatch
        self.rows_at_once = max(_FEWEST_ROWS, _LOGITS // model.shape.vocab_size)

    def run(self, spans: abc.Sequence[Span]) -> Iterator[Tensor]:
        """Logits of the rows by which the spans choose tokens, some rows at a time, in order.

        What the spans keep is in the cache once the first have come.

        Raises:
            OutOfPages: the pool is too small; what earlier chunks of these prompts left is lost.
            torch.OutOfMemoryError: so is the device's memory; likewise.
        """
        while True:
            batch = self._kind(spans, self.evictions, self.rotary)
            running, (rows, *more) = Running(batch), batch.logit_rows.split(self.rows_at_once)
            try:
                logits = self.model.logits(running, rows)
                batch.commit()
                break
            except torch.OutOfMemoryError:
                batch.discard()
                raise
            except OutOfPages as error:
                enough = self.make_room(self.evictions.cache.pool.num_free + error.num_missing)
                if not enough or any(span.start > span.sequence.num_shared for span in spans):
                    raise
        yield logits
        del logits
        for rows in more:
            yield self.model.logits(running, rows)
