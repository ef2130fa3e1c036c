"""Questions: tokens of several sequences that see what the readings they begin with hold, and each its own.

    entries of one launch    [ reading A | own of question 1 | own of 2 | own of 3 ]  [ reading B | own of 4 ]
    rows                                 [ question 1 | 2 | 3 ]                       [ question 4 ]

A reading is copied out of its pages once a layer for all questions about it, which are seen as one long continuation of
it: they count steps one behind the other, and a question's own entries are seen until its last step. Votes are another
launch for all: a question's rows, by their real steps, vote on what is its own.
"""

from __future__ import annotations

from collections import abc
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.chunk_pass import as_voted, votes
from corm_batch.engine.looks import DenseLook, LayerLooks
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import GATHERED_ENTRIES
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from corm_batch.policies.base import KVPolicy


class QuestionPass:
    """The questions of one pass over prompts: which of them go together, and how they are run.

    Args:
        spans: of the pass, those over one reading side by side.
        cache: where the entries are.
    """

    def __init__(self, spans: abc.Sequence[Span], cache: KVCache) -> None:
        self._spans, self._cache = spans, cache
        self._runs: dict[tuple[object, ...], Questions] = {}
        self._bundles: dict[Span, np.ndarray] = {}
        total, before = np.zeros(len(cache.table.lengths[0]), np.int64), None
        for span in spans:
            if span.asks and (reading := span.sequence.source) is not None and (settled := reading.settled) is not None:
                held = settled.longest + span.start - span.sequence.num_shared
                again = settled.lasting & (before is reading) & (span.start == span.sequence.num_shared)
                total = total + np.where(again, 0, held)
                self._bundles[span], before = total * cache.table.lengths.shape[2] // GATHERED_ENTRIES, reading

    def kind(self, span: Span, layer: int) -> tuple[object, ...]:
        """What questions have in common that go together in a layer."""
        return _sees_one_copy(span, layer), int(self._bundles[span][layer]), span.sequence.keeps_all

    def of(self, spans: abc.Sequence[Span], layer: int, reduction: Reduction | None) -> Questions:
        """Neighbours that go together in a layer, whose queries vote like this; made once for all such layers."""
        together, page_size = _sees_one_copy(spans[0], layer), self._cache.layout.by_layer[layer]
        key = self._spans.index(spans[0]), len(spans), together, reduction, page_size
        if (questions := self._runs.get(key)) is None:
            questions = self._runs[key] = Questions(spans, together, reduction, self._cache, page_size)
        return questions


class Questions:
    """Neighbours of a pass that ask over readings, in layers that treat them alike.

    Args:
        spans: whose sequences share entries.
        together: those about one reading see one copy of it; else each has its own, of all that its sequence holds.
        reduction: how their queries vote.
        cache: where the entries are.
        page_size: entries a page in these layers.

    Attributes:
        where: where each question's own entries stand, as `attend` gives them.
    """

    def __init__(
        self, spans: abc.Sequence[Span], together: bool, reduction: Reduction | None, cache: KVCache, page_size: int
    ) -> None:
        self.cache, self.reduction, self.together, self._page_size = cache, reduction, together, page_size
        sequences, device = [span.sequence for span in spans], cache.device
        holders = [one.source if together else one for one in sequences]
        first = [n for n, holder in enumerate(holders) if n == 0 or holder is not holders[n - 1]]
        sizes, start, stop = np.array([(one.num_tokens, one.start, one.stop) for one in spans], np.int32).T
        self._rows, self._asking = Packing.of(sizes, device), Packing.of(np.add.reduceat(sizes, first), device)
        self._voting = self._rows if reduction is None or reduction.accumulate else self._rows.newest(reduction.window)
        self._held, self._packings = cache.ends([sequences[n].slot for n in first], None), dict[bytes, Packing]()
        self._own = cache.ends([one.slot for one in sequences], _pages_before(reduction, page_size))
        self._own_width = self._own.table.shape[-1] * page_size
        self.where = Packing.of(sizes + self._own_width, device)
        # By row: how far its count of steps is ahead of them, the last step of its question, and that count.
        ahead = self._rows.starts - np.repeat(self._rows.starts[first], np.diff([*first, len(spans)]))
        row = np.arange(sizes.sum()) + np.repeat(start + ahead + 1 - self._rows.starts, sizes)
        columns = np.stack((np.repeat(ahead, sizes), np.repeat(stop, sizes), row)).astype(np.int32)
        self._ahead_R, self._stop_R, self._step_R = torch.from_numpy(columns).to(device)

    def attend(
        self,
        layer: int,
        query_HRD: Tensor,
        born: Entries,
        step_R: Tensor,
        features: AttentionFeatures,
        policy: KVPolicy,
        looks: LayerLooks,
    ) -> tuple[Tensor, Entries]:
        """Attention of one layer; see `ChunkPass.attend` for what a policy that votes can hide.

        Args:
            layer, query_HRD, features: of the attention.
            born: [K, R], the questions' new entries.
            step_R: int32, their steps.
            policy: whose rules hold for them.
            looks: the layer's.

        Returns:
            out [H, R, D], and the questions' own entries [K, N], all that they are to store, with what was found of
            them; padding at position NEVER.
        """
        softmax = features.scale, features.softcap
        seen, where = self._seen(layer, born, votes(policy))
        look = DenseLook(self.cache.ops, self._step_R, *seen[:4], (self._asking, where))

        def behind(value: Tensor, member: int) -> Entries:
            return self._seen(layer, born._replace(value=value), votes(policy), member)[0]

        out, lse = looks.see(look, born.value, behind)(query_HRD, features)
        own, reduction = self.own(layer, born), self.reduction
        if reduction is not None:
            if not reduction.accumulate:
                own = own._replace(statistic=torch.zeros_like(own.statistic))
            last = torch.full_like(own.expiry, NEVER) if votes(policy) else own.expiry
            own_where = self.where
            if reduction.reach:
                own_where = own_where.with_hole(self._own.length[layer], self._rows)
            voted = self.cache.ops.reduce_columns(
                reduction, query_HRD, lse, step_R, own, last, *softmax, gap_rule=True, packing=(self._voting, own_where)
            )
            own = as_voted(policy, own, voted)
        return out, self._without_others(layer, own)

    def own(self, layer: int, born: Entries, member: int = 0) -> Entries:
        """The questions' own entries, [K, N], the new ones among them, with a member's values."""
        return self.cache.read_ends(self._own, layer, born, (self._rows, self.where), member)

    def _seen(self, layer: int, born: Entries, expiring_by_votes: bool, member: int = 0) -> tuple[Entries, Packing]:
        """All that the rows may see, [K, N], between the steps that they count, with a member's values."""
        widths = self._held.widths[layer]
        if (where := self._packings.get(widths.tobytes())) is None:
            where = Packing.of(self._asking.sizes + widths, self.cache.device)
            self._packings[widths.tobytes()] = where
        last = self._stop_R.expand_as(born.expiry)
        if not expiring_by_votes:
            last = torch.minimum(born.expiry, last)
        counted = born._replace(position=born.position + self._ahead_R, expiry=last + self._ahead_R)
        seen = self.cache.read_ends(self._held, layer, counted, (self._asking, where), member)
        if expiring_by_votes and not self.together:  # in chunks, what an earlier one has left is seen like the others
            seen = seen._replace(expiry=torch.full_like(seen.expiry, NEVER))
        return seen, where

    def _without_others(self, layer: int, own: Entries) -> Entries:
        """Own entries without those that votes had to see in pages that are shared."""
        if _pages_before(self.reduction, self._page_size) == 0:
            return own
        others = self._place_N < self._own.others[layer].T[:, self._owner_N]
        position, statistic = own.position.masked_fill(others, NEVER), own.statistic.masked_fill(others, 0.0)
        return own._replace(position=position, statistic=statistic)

    @cached_property
    def _owner_N(self) -> Tensor:
        """[N] int64, whose each of all own entries is."""
        owner = np.repeat(np.arange(len(self.where.sizes)), self.where.sizes)
        return torch.from_numpy(owner).to(self.cache.device)

    @cached_property
    def _place_N(self) -> Tensor:
        """[N] int64, which of its question's own entries each is."""
        first = np.repeat(self.where.starts, self.where.sizes)
        return torch.from_numpy(np.arange(len(first)) - first).to(self.cache.device)


def _pages_before(reduction: Reduction | None, page_size: int) -> int | None:
    """How many pages that a list shares say what votes do to its own entries: those with which a hit on an entry there
    reaches them, or all where votes count what they see."""
    if reduction is None or reduction.threshold is None:
        return 0
    return None if reduction.threshold == "cache" else -(-reduction.reach // page_size)


def _sees_one_copy(span: Span, layer: int) -> bool:
    """Whether what a question sees of its reading in a layer is what all others see: all of it at every step, and
    nothing of its own before this pass."""
    sequence = span.sequence
    settled = None if sequence.source is None else sequence.source.settled
    return settled is not None and span.start == sequence.num_shared and bool(settled.lasting[layer])
