"""The forward passes over whole prompts. Chunks of them are `chunk_batch.py`'s, one token of many `decode_batch.py`'s.

Each knows how its tokens attend and what its queries say about the cache; none knows who chose its sequences. A pass
over prompts may hold spans of which nothing outlives a layer: those that are scored, which attend exactly, and what is
read behind a prompt; and questions over a document that has been read, which see what it has stored. Where tokens are
left behind on the way (`propagating.py`), later layers have rows of their own. A layer that borrows an earlier one's
entries looks at what that one did and leaves nothing behind; what is scored attends to the layer's own all the same.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.chunk_pass import as_voted, votes
from corm_batch.engine.entries import new_entries
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.extra_pass import ExtraPasses
from corm_batch.engine.keeping import Keeping
from corm_batch.engine.looks import Behind, CausalLook, LayerLooks, Looks
from corm_batch.engine.pins import never_expiring
from corm_batch.engine.question_pass import QuestionPass
from corm_batch.engine.rows import PackedRows, Part
from corm_batch.engine.work import Span
from corm_batch.ops.packing import Packing
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
        self._num_votes: list[list[int]] = [[] for _ in spans]  # by span and layer: queries that voted
        self._made: Tensor | None = None
        self.questions, self.extra = QuestionPass(spans, self.cache), ExtraPasses(spans, self.cache)
        self._looks = Looks(self.cache.layers)
        scores = any(span.extra is None and not span.stores for span in spans)
        self._shares = bool(self.cache.layers.borrowers)
        self.borrowing: frozenset[int] = frozenset() if scores else self.cache.layers.borrowers
        stored = [span for span in spans if span.stores]
        num_pages = sum(evictions.of(span.sequence).pages(span.sequence, span.stop) for span in stored)
        slots = [span.sequence.slot for span in stored]
        self.stage = self.cache.stage(slots, num_pages)  # last: nobody would give it back
        self.keeping = Keeping(self.cache, self.stage, len(spans))

    @property
    def left(self) -> Tensor | None:
        """[R] int64, which of the packed tokens the next layer runs; None for all."""
        return self.rows.left

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention of spans that go together, or span by span; of each span only the survivors outlive the layer."""
        borrows, looks = layer in self.cache.layers.borrowers, self._looks.of(layer)
        outs, stay, layer, decides = [], [], self.cache.layers.row(layer), self.evictions.decides(layer)
        member = self.cache.layers.member(layer)
        for first, spans in self._together(layer if member is None else member.owner):
            part = self.rows.part(first, first + len(spans))
            packed = query_HTD[:, part.rows], key_KTD[:, part.rows], value_KTD[:, part.rows]
            lse_HR, entries, where = None, None, part.packing
            if spans[0].extra is None and not spans[0].stores:
                look = self.causal_look(*packed[1:], part)
                out_HRD, _ = (look if self._shares else looks.see(look, packed[2]))(packed[0], features)
            elif borrows:
                out_HRD, _ = looks.borrowed()(packed[0], features)
            elif spans[0].extra is not None:
                passes, tokens = self.extra.of(spans), (part.step_R, self.input_ids[part.rows])
                out_HRD = passes.attend(layer, *packed, *tokens, features, self.evictions, looks)
            elif spans[0].asks:
                out_HRD = self._attend_questions(spans, layer, *packed, part, features, looks)
            else:
                attended = self.attend_spans(spans, layer, *packed, part, features, looks)
                out_HRD, lse_HR, entries, where, behind = attended
                self.keep(spans, layer, entries, part, packed, where, behind)
            outs.append(out_HRD)
            if decides:
                rows = (*packed, part.step_R)
                stay.append(self.evictions.stay(spans, rows, part.packing, lse_HR, features, entries, where))
        if decides:
            self.rows.leave(torch.cat(stay), self.logit_rows)
        return side_by_side(outs)

    def _together(self, layer: int) -> list[tuple[int, list[Span]]]:
        """Neighbours that one policy looks at, with the number of the first: those that leave entries behind, or that
        leave none, or that ask over readings, or are read behind prompts. A policy that looks at prompts itself sees
        one at a time."""
        runs: list[tuple[int, list[Span]]] = []
        before: object = None
        for number, span in enumerate(self.spans):
            kind = self.kind(span, layer)
            if kind is not None and kind == before:
                runs[-1][1].append(span)
            else:
                runs.append((number, [span]))
            before = kind
        return runs

    def kind(self, span: Span, layer: int) -> object:
        """What spans have in common that go together; None for what goes alone."""
        if span.asks:
            return self.questions.kind(span, layer)
        if span.extra is not None:
            return self.extra.kind(span, layer)
        if self.policy_of(span, layer).needs.prompt:
            return None
        return span.stores, span.sequence.keeps_all

    def follows(self, span: Span) -> bool:
        """Whether what the span stores comes behind entries that its sequence has stored."""
        return span.asks

    def keep(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        entries: Entries,
        part: Part,
        packed: tuple[Tensor, Tensor, Tensor],
        where: Packing,
        behind: Behind | None = None,
    ) -> None:
        """Of one layer's entries, [K, N], of spans that go together keep what survives.

        Args:
            spans, layer, entries: as said.
            part: the rows it ran.
            packed: queries, keys and values of these.
            where: where the entries of each span stand.
            behind: how the entries are read with a member's values; None where these are those of the rows alone.
        """
        eviction, sequences = self.evictions.of(spans[0].sequence), [span.sequence for span in spans]
        steps, asked = [span.stop for span in spans], None if spans[0].start else packed[0]
        survivors = eviction.survivors(sequences, layer, entries, steps, where, asked)
        reduction, first = eviction.policies[layer].needs.reduction, self.spans.index(spans[0])
        self.keeping.add(survivors, first, packed[2], behind)
        for number, size in enumerate(part.packing.sizes.tolist(), first):
            self._num_votes[number].append(0 if reduction is None else self._count_votes(spans[0], reduction, size))

    def commit(self) -> None:
        """Book what survived.

        Raises:
            OutOfPages: the pool is too small; see `KVCache.commit`.
        """
        self.cache.commit(self.stage)
        for number, (span, num_votes) in enumerate(zip(self.spans, self._num_votes, strict=True)):
            if (lost := self.keeping.lost(number)) is not None:
                span.sequence.lost_statistic += lost
                span.sequence.num_votes += num_votes
            if span.ends_reading:
                span.sequence.notes.clear()

    def discard(self) -> None:
        """Give the pages back that the pass was to fill."""
        self.cache.discard(self.stage)

    def _count_votes(self, span: Span, reduction: Reduction, num_rows: int) -> int:
        """How many of a span's tokens vote: in chunks all of them, or the newest of those that score."""
        return num_rows if reduction.accumulate and self.follows(span) else min(reduction.window, num_rows)

    def policy_of(self, span: Span, layer: int) -> KVPolicy:
        """Whose rules hold for the span's entries."""
        return self.evictions.of(span.sequence).policies[layer]

    def born(self, spans: abc.Sequence[Span], layer: int, key_KRD: Tensor, value_KRD: Tensor, part: Part) -> Entries:
        """The spans' own entries; those that are pinned never expire."""
        policy, owner = self.policy_of(spans[0], layer), self.evictions.policies[layer]
        counted = part.count_R if votes(policy) and not part.all_there else None
        entries = new_entries(self.cache, owner, layer, key_KRD, value_KRD, part.step_R, policy, counted)
        return never_expiring(policy, [span.sequence for span in spans], entries, part.packing)

    def observed(
        self,
        span: Span,
        layer: int,
        query_HRD: Tensor,
        lse_HR: Tensor,
        entries: Entries,
        features: AttentionFeatures,
        part: Part,
    ) -> Entries:
        """What the policy's own look at the span makes of the entries."""
        policy, notes = self.policy_of(span, layer), span.sequence.notes
        if not policy.needs.prompt:
            return entries
        if not span.start:  # a pass may be run again
            notes[layer] = {}
        token_ids = self._token_ids[self.spans.index(span)][part.step_R - (span.start + 1)]
        reading = Reading(
            query_HRD, lse_HR, span.stop, span.sequence.num_prompt_tokens, token_ids,
            features.scale, features.softcap, self.rotary, notes[layer], features.sink_H,
            steps=part.step_R, num_tokens=span.num_tokens,
        )  # fmt: skip
        return never_expiring(policy, [span.sequence], policy.observe(layer, entries, reading))

    def _attend_questions(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        part: Part,
        features: AttentionFeatures,
        looks: LayerLooks,
    ) -> Tensor:
        """Attention of questions, [H, R, D]; of their own entries only the survivors outlive the layer."""
        policy = self.policy_of(spans[0], layer)
        questions = self.questions.of(spans, layer, policy.needs.reduction)
        born = self.born(spans, layer, key_KRD, value_KRD, part)
        out, entries = questions.attend(layer, query_HRD, born, part.step_R, features, policy, looks)

        def behind(value: Tensor, member: int) -> Entries:
            return questions.own(layer, born._replace(value=value), member)

        self.keep(spans, layer, entries, part, (query_HRD, key_KRD, value_KRD), questions.where, behind)
        return out

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
        """Exact prefill of whole prompts: full causal attention, then the last rows of each vote on every key of it.

        Returns:
            out [H, R, D], its log-sum-exp [H, R], the entries as the policy sees them then, where those of each span
            stand, and how they are read with a member's values, as `keep` has it.
        """
        out, lse = looks.see(self.causal_look(key_KRD, value_KRD, part), value_KRD)(query_HRD, features)
        entries = self.voted(spans, layer, query_HRD, key_KRD, value_KRD, part, lse, features)
        return out, lse, entries, part.packing, None

    def causal_look(self, key_KRD: Tensor, value_KRD: Tensor, part: Part) -> CausalLook:
        """Exact attention of whole sequences, or of the tokens of them that are there."""
        return CausalLook(self.cache.ops, key_KRD, value_KRD, part)

    def voted(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        key_KRD: Tensor,
        value_KRD: Tensor,
        part: Part,
        lse_HR: Tensor,
        features: AttentionFeatures,
    ) -> Entries:
        """The entries of whole prompts, [K, R], as the policy sees them once their queries have voted."""
        policy = self.policy_of(spans[0], layer)
        entries, reduction = self.born(spans, layer, key_KRD, value_KRD, part), policy.needs.reduction
        if reduction is not None:
            voted = self.cache.ops.reduce_columns(
                reduction, query_HRD, lse_HR, part.count_R,
                entries._replace(position=part.count_R.expand_as(entries.position)), self._never(entries.position),
                features.scale, features.softcap, gap_rule=False,
                packing=(part.newest(reduction.window), part.packing),
            )  # fmt: skip
            entries = as_voted(policy, entries, voted)
        return self.observed(spans[0], layer, query_HRD, lse_HR, entries, features, part)

    def _never(self, like_KN: Tensor) -> Tensor:
        """NEVER throughout; made once for all layers of one shape."""
        if self._made is None or self._made.shape != like_KN.shape:
            self._made = torch.full_like(like_KN, NEVER, memory_format=torch.contiguous_format)
        return self._made
