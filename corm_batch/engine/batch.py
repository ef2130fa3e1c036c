"""The forward passes over prompts: whole ones, or chunks of them. One token of many is `decode_batch.py`'s.

Each knows how its tokens attend and what its queries say about the cache; none knows who chose its sequences. A pass
over prompts may hold spans of which nothing outlives a layer: those that are scored, which attend exactly, and what is
read behind a prompt. Where tokens are left behind on the way (`propagating.py`), later layers have rows of their own.
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
from corm_batch.engine.rows import Count, PackedRows
from corm_batch.engine.work import Span
from corm_batch.ops.causal import causal_attention
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
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
        device, lengths = self.cache.device, [span.num_tokens for span in spans]
        self.input_ids = torch.from_numpy(np.concatenate([span.token_ids for span in spans])).to(device)
        self.positions = torch.cat([torch.arange(span.start, span.stop, device=device) for span in spans])
        self.rows, self._token_ids = PackedRows(lengths, self.positions), self.input_ids.split(lengths)
        last = [np.arange(stop - span.num_chosen, stop) for span, stop in zip(spans, np.cumsum(lengths), strict=True)]
        self.logit_rows = torch.from_numpy(np.concatenate(last)).to(device)
        self._lost: list[list[Tensor]] = [[] for _ in spans]  # by span and layer: the statistic of what left, [K]
        self._num_votes: list[list[int]] = [[] for _ in spans]  # likewise: queries that voted
        stored = [span for span in spans if span.stores]
        num_pages = sum(evictions.of(span.sequence).pages(span.sequence, span.stop) for span in stored)
        slots = [span.sequence.slot for span in stored]
        self.stage = self.cache.stage(slots, num_pages)  # last: nobody would give it back

    @property
    def left(self) -> Tensor | None:
        """[R] int64, which of the packed tokens the next layer runs; None for all."""
        return self.rows.left

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention span by span; of each span only the survivors outlive the layer."""
        outs, stay, decides = [], [], self.evictions.decides(layer)
        for number, span in enumerate(self.spans):
            rows = self.rows.of(number)
            packed = query_HTD[:, rows], key_KTD[:, rows], value_KTD[:, rows], self.rows.step_R[rows]
            lse_HR, entries = None, None
            if span.extra is not None:
                behind = self.input_ids[rows], features, self.evictions, self.rotary
                out_HRD = attend_behind(span, layer, *packed, *behind)
            elif span.stores:
                out_HRD, lse_HR, entries = self.attend_span(span, layer, *packed, features)
                self.keep(span, layer, entries, rows.stop - rows.start)
            else:
                out_HRD, _ = self.attend_causally(span, *packed, features)
            outs.append(out_HRD)
            if decides:
                stay.append(self.evictions.keep_rows(span, packed, lse_HR, features, entries))
        if decides:
            self.rows.leave(torch.cat(stay), self.logit_rows)
        return side_by_side(outs)

    def keep(self, span: Span, layer: int, entries: Entries, num_rows: int) -> None:
        """Of one layer's entries, [K, N], of a span keep what survives; the layer ran `num_rows` of its tokens."""
        eviction, sequence, number = self.evictions.of(span.sequence), span.sequence, self.spans.index(span)
        self._lost[number].append(eviction.store(self.stage, sequence, layer, entries, span.stop))
        reduction = eviction.policies[layer].needs.reduction
        self._num_votes[number].append(0 if reduction is None else self.num_votes(reduction, num_rows))

    def commit(self) -> None:
        """Book what survived.

        Raises:
            OutOfPages: the pool is too small; see `KVCache.commit`.
        """
        self.cache.commit(self.stage)
        for span, lost, num_votes in zip(self.spans, self._lost, self._num_votes, strict=True):
            if lost:
                span.sequence.lost_statistic += torch.stack(lost).mean(dim=1)
                span.sequence.num_votes += num_votes
            if span.ends_reading:
                span.sequence.notes.clear()

    def discard(self) -> None:
        """Give the pages back that the pass was to fill."""
        self.cache.discard(self.stage)

    def num_votes(self, reduction: Reduction, num_rows: int) -> int:
        """How many of a span's tokens vote."""
        return min(reduction.window, num_rows)

    def _policy(self, span: Span, layer: int) -> KVPolicy:
        """Whose rules hold for the span's entries."""
        return self.evictions.of(span.sequence).policies[layer]

    def _born(self, span: Span, layer: int, key_KRD: Tensor, value_KRD: Tensor, count: Count) -> Entries:
        """The span's own entries; those that are pinned never expire."""
        policy, owner = self._policy(span, layer), self.evictions.policies[layer]
        counted = count.count_R if _votes(policy) else None
        entries = new_entries(self.cache, owner, layer, key_KRD, value_KRD, count.step_R, policy, counted)
        return never_expiring(policy, span.sequence, entries)

    def _counted(
        self,
        reduction: Reduction,
        query_HVD: Tensor,
        lse_HV: Tensor,
        entries: Entries,
        last_KN: Tensor,
        features: AttentionFeatures,
        count: Count,
        *,
        gap_rule: bool,
    ) -> Entries:
        """The entries once the newest V of a span's tokens have voted; see `reduce_columns`."""
        voted = self.cache.ops.reduce_columns(
            reduction, query_HVD, lse_HV, count.count_R[-query_HVD.shape[1] :], *count.entries(entries, last_KN),
            features.scale, features.softcap, gap_rule=gap_rule,
        )  # fmt: skip
        expiry = entries.expiry if reduction.threshold is None else voted.expiry
        return voted._replace(position=entries.position, expiry=expiry)

    def _observed(
        self,
        span: Span,
        layer: int,
        query_HRD: Tensor,
        lse_HR: Tensor,
        entries: Entries,
        features: AttentionFeatures,
        count: Count,
    ) -> Entries:
        """What the policy's own look at the span makes of the entries."""
        policy, notes = self._policy(span, layer), span.sequence.notes
        if not policy.needs.prompt:
            return entries
        if not span.start:  # a pass may be run again
            notes[layer] = {}
        token_ids = self._token_ids[self.spans.index(span)][count.step_R - (span.start + 1)]
        reading = Reading(
            query_HRD, lse_HR, span.stop, span.sequence.num_prompt_tokens, token_ids,
            features.scale, features.softcap, self.rotary, notes[layer], features.sink_H,
            steps=count.step_R, num_tokens=span.num_tokens,
        )  # fmt: skip
        return never_expiring(policy, span.sequence, policy.observe(layer, entries, reading))

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        step_R: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Tensor, Entries]:
        """Exact prefill of one whole prompt: full causal attention, then the last rows vote on every key.

        Returns:
            out [H, R, D], its log-sum-exp [H, R], and the entries as the policy sees them then.
        """
        out, lse = self.attend_causally(span, query_HRD, key_KRD, value_KRD, step_R, features)
        return out, lse, self.voted(span, layer, query_HRD, key_KRD, value_KRD, step_R, lse, features)

    def attend_causally(
        self,
        span: Span,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        step_R: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Tensor]:
        """Exact attention of a whole sequence, or of the tokens of it that are there, and its log-sum-exp."""
        return causal_attention(
            query_HRD, key_KRD, value_KRD, features.scale, features.softcap, features.window, features.sink_H,
            dense=self.cache.ops.dense_attention, step_T=None if len(step_R) == span.num_tokens else step_R,
        )  # fmt: skip

    def voted(
        self,
        span: Span,
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        step_R: Tensor,
        lse_HR: Tensor,
        features: AttentionFeatures,
    ) -> Entries:
        """The entries of one whole prompt, [K, R], as the policy sees them once its queries have voted."""
        reduction, count = self._policy(span, layer).needs.reduction, Count(step_R, span.stop, span.num_tokens)
        entries = self._born(span, layer, key_KRD, value_KRD, count)
        if reduction is not None:
            rows, never = slice(-min(reduction.window, len(step_R)), None), torch.full_like(entries.expiry, NEVER)
            voting = query_HRD[:, rows], lse_HR[:, rows]
            entries = self._counted(reduction, *voting, entries, never, features, count, gap_rule=False)
        return self._observed(span, layer, query_HRD, lse_HR, entries, features, count)


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def num_votes(self, reduction: Reduction, num_rows: int) -> int:
        """All of them, or the newest of those that score."""
        return num_rows if reduction.accumulate else super().num_votes(reduction, num_rows)

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        step_R: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Tensor, Entries]:
        """Streaming prefill of one chunk; all of its rows vote, under the gap rule, or the newest of those that score.

        Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
        attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.
        """
        policy, count = self._policy(span, layer), Count(step_R, span.stop, span.num_tokens)
        reduction = policy.needs.reduction
        entries = self._born(span, layer, key_KRD, value_KRD, count)
        if span.start:
            entries = self.cache.read_before(span.sequence.slot, layer, entries)
        last = torch.full_like(entries.expiry, NEVER) if _votes(policy) else entries.expiry
        out, lse = self.cache.ops.dense_attention(
            query_HRD, entries.key, entries.value, step_R, entries.position, last, features.scale, features.softcap,
            features.sink_H,
        )  # fmt: skip
        if reduction is not None:
            rows = slice(None)
            if not reduction.accumulate:
                rows = slice(-reduction.window, None)
                entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
            voting = query_HRD[:, rows], lse[:, rows]
            entries = self._counted(reduction, *voting, entries, last, features, count, gap_rule=True)
        return out, lse, self._observed(span, layer, query_HRD, lse, entries, features, count)


def _votes(policy: KVPolicy) -> bool:
    """Whether expiries are what votes make of them, and attention sees what would have expired by then."""
    return policy.needs.reduction is not None and policy.needs.reduction.threshold is not None
