"""The forward pass over chunks of prompts."""

from __future__ import annotations

from collections import abc

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.batch import PrefillBatch, as_voted, votes
from corm_batch.engine.rows import Count, Part
from corm_batch.engine.work import Span
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def num_votes(self, reduction: Reduction, num_rows: int) -> int:
        """All of them, or the newest of those that score."""
        return num_rows if reduction.accumulate else super().num_votes(reduction, num_rows)

    def _kind(self, span: Span, layer: int) -> object:
        """Chunks go alone, what leaves nothing behind together."""
        return None if span.stores else super()._kind(span, layer)

    def attend_spans(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        part: Part,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Tensor, Entries]:
        """Streaming prefill of one chunk; all of its rows vote, under the gap rule, or the newest of those that score.

        Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
        attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.
        """
        (span,) = spans
        policy, count = self._policy(span, layer), Count(part.step_R, span.stop, span.num_tokens)
        reduction = policy.needs.reduction
        entries, packing = self._born(spans, layer, key_KRD, value_KRD, part), part.packing
        if span.start:
            packing = self.cache.packing_before(span.sequence.slot, layer, len(part.step_R))
            entries = self.cache.read_before(span.sequence.slot, layer, entries)
        last = torch.full_like(entries.expiry, NEVER) if votes(policy) else entries.expiry
        out, lse = self.cache.ops.dense_attention(
            query_HRD, entries.key, entries.value, part.step_R, entries.position, last, features.scale,
            features.softcap, features.sink_H,
        )  # fmt: skip
        if reduction is not None:
            rows = part.packing
            if not reduction.accumulate:
                rows = part.newest(reduction.window)
                entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
            voted = self.cache.ops.reduce_columns(
                reduction, query_HRD, lse, part.count_R, *count.entries(entries, last),
                features.scale, features.softcap, gap_rule=True, packing=(rows, packing),
            )  # fmt: skip
            entries = as_voted(policy, entries, voted)
        return out, lse, self._observed(span, layer, query_HRD, lse, entries, features, part)
