"""The forward pass over chunks of prompts."""

from __future__ import annotations

from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.work import Span


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def follows(self, span: Span) -> bool:
        """Whether the span stores something: a first chunk comes behind nothing and is treated as the others."""
        return span.stores
