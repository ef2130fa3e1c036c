"""The forward pass over chunks of prompts."""

from __future__ import annotations

from collections import abc, deque

from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.chunk_pass import attend_chunk
from corm_batch.engine.looks import Look
from corm_batch.engine.rows import Part
from corm_batch.engine.work import Span
from corm_batch.ops.pages import Entries


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def follows(self, span: Span) -> bool:
        """Whether the span stores something: a first chunk comes behind nothing and is treated as the others."""
        return span.stores

    def attend_spans(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        part: Part,
        features: AttentionFeatures,
        looks: deque[Look],
    ) -> tuple[Tensor, Tensor, Entries]:
        """As `PrefillBatch.attend_spans`, of one chunk; see `attend_chunk`."""
        (span,) = spans
        policy, born = self.policy_of(span, layer), self.born(spans, layer, key_KRD, value_KRD, part)
        out, lse, entries = attend_chunk(span, layer, query_HRD, born, part, features, policy, self.cache, looks)
        return out, lse, self.observed(span, layer, query_HRD, lse, entries, features, part)
