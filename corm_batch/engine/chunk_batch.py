"""The forward pass over chunks of prompts."""

from __future__ import annotations

from collections import abc

from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.chunk_pass import ChunkPass
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.looks import Behind, LayerLooks
from corm_batch.engine.rows import Part
from corm_batch.engine.work import Span
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries
from corm_batch.ops.rotary import Rotary


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def __init__(self, spans: abc.Sequence[Span], evictions: Evictions, rotary: Rotary | None = None) -> None:
        self.chunks = ChunkPass(spans, evictions.cache)
        super().__init__(spans, evictions, rotary)

    def follows(self, span: Span) -> bool:
        """Whether the span stores something: a first chunk comes behind nothing and is treated as the others."""
        return span.stores

    def kind(self, span: Span, layer: int) -> object:
        """As `PrefillBatch.kind`; first chunks go with first ones."""
        kind = super().kind(span, layer)
        return None if kind is None else (kind, self.chunks.kind(span, layer))

    def attend_spans(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        part: Part,
        features: AttentionFeatures,
        looks: LayerLooks,
    ) -> tuple[Tensor, Tensor, Entries, Packing, Behind | None]:
        """As `PrefillBatch.attend_spans`, of chunks; see `ChunkPass.attend`."""
        policy, born = self.policy_of(spans[0], layer), self.born(spans, layer, key_KRD, value_KRD, part)
        attended = self.chunks.attend(spans, layer, query_HRD, born, part, features, policy, looks)
        out, lse, entries, where, behind = attended
        return out, lse, self.observed(spans[0], layer, query_HRD, lse, entries, features, part), where, behind
