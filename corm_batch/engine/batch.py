"""The forward passes over prompts: whole ones, or chunks of them. One token of many is `decode_batch.py`'s.

Each knows how its tokens attend and what its queries say about the cache; none knows who chose its sequences. A pass
over prompts may hold spans of which nothing outlives a layer: those that are scored, which attend exactly, and what is
read behind a prompt.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.entries import new_entries
from corm_batch.engine.eviction import Evictions
from corm_batch.engine.extra_pass import attend_behind
from corm_batch.engine.pins import never_expiring
from corm_batch.engine.work import Span
from corm_batch.ops.causal import causal_attention
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.rotary import Rotary
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.reading import Reading


def side_by_side(outs: abc.Sequence[Tensor]) -> Tensor:
    """The outputs of spans, [H, R, D] each, as one: token by token in memory, as the projection reads them."""
    return outs[0] if len(outs) == 1 else torch.cat([out.transpose(0, 1) for out in outs]).transpose(0, 1)


class PrefillBatch:
    """Prompt tokens of several sequences, packed.

    Args:
        spans: what to run.
        evictions: which entries survive, in which cache.
        rotary: for policies that undo rotary positions.
    """

    def __init__(self, spans: abc.Sequence[Span], evictions: Evictions, rotary: Rotary | None = None) -> None:
        self.spans, self.evictions, self.rotary, self.cache = spans, evictions, rotary, evictions.cache
        self.stops = np.cumsum([span.stop - span.start for span in spans])
        device = self.cache.device
        self.input_ids = torch.from_numpy(np.concatenate([span.token_ids for span in spans])).to(device)
        self.positions = torch.cat([torch.arange(span.start, span.stop, device=device) for span in spans])
        last = [np.arange(stop - span.num_chosen, stop) for span, stop in zip(spans, self.stops, strict=True)]
        self.logit_rows = torch.from_numpy(np.concatenate(last)).to(device)
        self._step_T = (self.positions + 1).int()
        self._lost: list[list[Tensor]] = [[] for _ in spans]  # by span and layer: the statistic of what left, [K]
        stored = [span for span in spans if span.stores]
        num_pages = sum(evictions.of(span.sequence).pages(span.sequence, span.stop) for span in stored)
        slots = [span.sequence.slot for span in stored]
        self.stage = self.cache.stage(slots, num_pages)  # last: nobody would give it back

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention span by span; of each span only the survivors outlive the layer."""
        outs = []
        for span in self.spans:
            rows = self.rows(span)
            packed = query_HTD[:, rows], key_KTD[:, rows], value_KTD[:, rows]
            if span.extra is not None:
                tokens = self._step_T[rows], self.input_ids[rows]
                out_HRD = attend_behind(span, layer, *packed, *tokens, features, self.evictions, self.rotary)
            elif span.stores:
                out_HRD, entries = self.attend_span(span, layer, *packed, features)
                self.keep(span, layer, entries)
            else:
                out_HRD, _ = self.attend_causally(*packed, features)
            outs.append(out_HRD)
        return side_by_side(outs)

    def keep(self, span: Span, layer: int, entries: Entries) -> None:
        """Of one layer's entries, [K, N], of a span keep what survives."""
        eviction, sequence = self.evictions.of(span.sequence), span.sequence
        self._lost[self.spans.index(span)].append(eviction.store(self.stage, sequence, layer, entries, span.stop))

    def commit(self) -> None:
        """Book what survived.

        Raises:
            OutOfPages: the pool is too small; see `KVCache.commit`.
        """
        self.cache.commit(self.stage)
        for span, lost in zip(self.spans, self._lost, strict=True):
            if lost:
                span.sequence.lost_statistic += torch.stack(lost).mean(dim=1)
            if span.ends_reading:
                span.sequence.notes.clear()

    def discard(self) -> None:
        """Give the pages back that the pass was to fill."""
        self.cache.discard(self.stage)

    def _policy(self, span: Span, layer: int) -> KVPolicy:
        """Whose rules hold for the span's entries."""
        return self.evictions.of(span.sequence).policies[layer]

    def attend_causally(
        self, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> tuple[Tensor, Tensor]:
        """Exact attention of a whole sequence, and its log-sum-exp."""
        return causal_attention(
            query_HTD, key_KTD, value_KTD, features.scale, features.softcap, features.window, features.sink_H,
            dense=self.cache.ops.dense_attention,
        )  # fmt: skip

    def _steps(self, span: Span) -> Tensor:
        """The steps of the span's tokens."""
        return self._step_T[self.rows(span)]

    def rows(self, span: Span) -> slice:
        """Where the span's tokens stand among those packed."""
        stop = int(self.stops[self.spans.index(span)])
        return slice(stop - span.num_tokens, stop)

    def _born(self, span: Span, layer: int, key_KND: Tensor, value_KND: Tensor, step: Tensor) -> Entries:
        """The span's own entries; those that are pinned never expire."""
        policy, owner = self._policy(span, layer), self.evictions.policies[layer]
        entries = new_entries(self.cache, owner, layer, key_KND, value_KND, step, expiring=policy)
        return never_expiring(policy, span.sequence, entries)

    def _observed(
        self, span: Span, layer: int, query_HTD: Tensor, lse_HT: Tensor, entries: Entries, features: AttentionFeatures
    ) -> Entries:
        """What the policy's own look at the span makes of the entries."""
        policy, notes = self._policy(span, layer), span.sequence.notes
        if not policy.needs.prompt:
            return entries
        if not span.start:  # a pass may be run again
            notes[layer] = {}
        reading = Reading(
            query_HTD, lse_HT, span.stop, span.sequence.num_prompt_tokens, self.input_ids[self.rows(span)],
            features.scale, features.softcap, self.rotary, notes[layer], features.sink_H,
        )  # fmt: skip
        return never_expiring(policy, span.sequence, policy.observe(layer, entries, reading))

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Entries]:
        """Exact prefill of one whole prompt: full causal attention, then the last rows vote on every key."""
        out, lse = self.attend_causally(query_HTD, key_KTD, value_KTD, features)
        return out, self.voted(span, layer, query_HTD, key_KTD, value_KTD, lse, features)

    def voted(
        self,
        span: Span,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        lse_HT: Tensor,
        features: AttentionFeatures,
    ) -> Entries:
        """The entries of one whole prompt, [K, T], as the policy sees them once its queries have voted."""
        reduction = self._policy(span, layer).needs.reduction
        step = self._steps(span)
        entries = self._born(span, layer, key_KTD, value_KTD, step)
        if reduction is not None:
            votes = slice(-min(reduction.window, span.stop), None)
            entries = self.cache.ops.reduce_columns(
                reduction, query_HTD[:, votes], lse_HT[:, votes], step[votes], entries,
                torch.full_like(entries.expiry, NEVER), features.scale, features.softcap, gap_rule=False,
            )  # fmt: skip
        return self._observed(span, layer, query_HTD, lse_HT, entries, features)


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Entries]:
        """Streaming prefill of one chunk; all of its rows vote, under the gap rule, or the newest of those that score.

        Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
        attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.
        """
        reduction = self._policy(span, layer).needs.reduction
        step = self._steps(span)
        entries = self._born(span, layer, key_KTD, value_KTD, step)
        if span.start:
            entries = self.cache.read_before(span.sequence.slot, layer, entries)
        votes = reduction is not None and reduction.threshold is not None
        last = torch.full_like(entries.expiry, NEVER) if votes else entries.expiry
        out, lse = self.cache.ops.dense_attention(
            query_HTD, entries.key, entries.value, step, entries.position, last, features.scale, features.softcap,
            features.sink_H,
        )  # fmt: skip
        if reduction is not None:
            rows = slice(None)
            if not reduction.accumulate:
                rows = slice(-reduction.window, None)
                entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
            entries = self.cache.ops.reduce_columns(
                reduction, query_HTD[:, rows], lse[:, rows], step[rows], entries, last,
                features.scale, features.softcap, gap_rule=True,
            )  # fmt: skip
        return out, self._observed(span, layer, query_HTD, lse, entries, features)
