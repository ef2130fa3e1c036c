"""Evictions: who decides about which sequence and which of its tokens: the policy, or one that lets go of nothing."""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.chunk_pass import votes
from corm_batch.engine.eviction import Eviction
from corm_batch.engine.propagating import Propagating
from corm_batch.engine.ranks import Ranks
from corm_batch.engine.sequence import Sequence, Settled
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.reading import ExtraPass


class Evictions:
    """What stays of the sequences of one replica: what the policy says, or everything where a request asks for that.

    Args:
        cache: where the entries are: those of this rank's heads.
        policies: one a layer.
        full: one a layer, which let go of nothing that the model itself may still see.
        ranks: those that have the other heads.
        compact_every: output tokens between two compactions of a sequence.
        propagating: which tokens have no entries in later layers, because these do not run them; None for none.
    """

    def __init__(
        self,
        cache: KVCache,
        policies: abc.Sequence[KVPolicy],
        full: abc.Sequence[KVPolicy],
        ranks: Ranks,
        compact_every: int = 1,
        propagating: Propagating | None = None,
    ) -> None:
        self.cache, self.policies, self.compact_every = cache, policies, compact_every
        self.propagating, self.ranks = propagating, ranks
        self._of = {False: Eviction(cache, policies, ranks), True: Eviction(cache, full, ranks)}

    def of(self, sequence: Sequence) -> Eviction:
        """What decides about this one, as it stands."""
        return self._of[sequence.keeps_all]

    def decides(self, layer: int) -> bool:
        """Whether some of a prompt's tokens may be left behind that layer."""
        return self.propagating is not None and layer == self.propagating.layer

    def stay(
        self,
        spans: abc.Sequence[Span],
        packed: tuple[Tensor, Tensor, Tensor, Tensor],
        packing: Packing,
        lse_HR: Tensor | None,
        features: AttentionFeatures,
        entries: Entries | None,
        where: Packing,
    ) -> Tensor:
        """[R] bool, as `keep_rows`, of spans that go together, whose rows stand as the packing says, and their entries
        as `where` does."""
        stay, (query, key, value, step) = [], packed
        for span, rows, held in zip(spans, packing.slices, where.slices, strict=True):
            one = query[:, rows], key[:, rows], value[:, rows], step[rows]
            mine, lse = entries, None if lse_HR is None else lse_HR[:, rows]
            if entries is not None and len(spans) > 1:
                mine = Entries.of(column[:, held] for column in entries.tensors)
            stay.append(self.keep_rows(span, one, lse, features, mine))
        return torch.cat(stay)

    def keep_rows(
        self,
        span: Span,
        packed: tuple[Tensor, Tensor, Tensor, Tensor],
        lse_HR: Tensor | None,
        features: AttentionFeatures,
        entries: Entries | None = None,
    ) -> Tensor:
        """Which of a span's tokens go on behind the layer that decides.

        Args:
            span: in a pass.
            packed: its queries, keys, values and steps in that layer, [H, R, D], [K, R, D], [K, R, D] and [R].
            lse_HR, features: of the attention; None of spans that store nothing, which leave no token behind.
            entries: as the sequence's policy sees them, the span's own as the last R of every head; where it has
                counted what is to be known, that is taken.

        Returns:
            [R] bool.
        """
        query, key, _, step = packed
        if self.propagating is None or lse_HR is None or not span.leaves_tokens:
            return torch.ones_like(step, dtype=torch.bool)
        eviction, statistic = self.of(span.sequence), None
        if entries is not None and eviction.policies[self.propagating.layer].needs.reduction == self.propagating.votes:
            statistic = entries.statistic[:, -len(step) :]
        pinned = eviction.pinned(span.sequence, step)
        return self.propagating.keep_rows(query, key, lse_HR, step, features, pinned, statistic)

    def extra_passes(self, sequence: Sequence, room: int) -> abc.Sequence[ExtraPass]:
        """What the model is to read behind a sequence's prompt; nothing where nothing of it can come to leave.

        Args:
            sequence: whose.
            room: positions behind the prompt that the model has.

        Raises:
            DocumentError: the policy finds too little room.
        """
        asking = [layer for layer, policy in enumerate(self.policies) if policy.needs.extra_passes]
        if sequence.request.uncompressed or sequence.num_shared:  # a question's tokens count as an answer's
            return ()
        if not any(self._of[False].may_bind(layer, sequence) for layer in asking):
            return ()
        return self.policies[asking[0]].extra_passes(sequence.to_prefill, room)

    def compact_due(self, running: abc.Sequence[Sequence]) -> None:
        """Compact those that have written enough since the last time."""
        self.compact([one for one in running if len(one.output) - one.num_compacted >= self.compact_every])

    def compact(self, sequences: abc.Sequence[Sequence]) -> None:
        """Free every page of running sequences that only entries need which do not stay. Waits for the device."""
        for keeps_all, eviction in self._of.items():
            if mine := [one for one in sequences if one.stores and one.keeps_all == keeps_all]:
                eviction.compact(mine)

    def settle(self, reading: Sequence) -> None:
        """What a reading has kept stays for all that is asked about it: expiries that votes would move, which nobody
        casts any more, never come; those that are fixed at an entry's birth stay as they are."""
        cache, policies = self.cache, self.of(reading).policies
        layers = cache.table.get_layers(reading.slot)
        for run in cache.layout.runs:
            voting = [ids for policy, ids in zip(policies[run], layers[run], strict=True) if votes(policy)]
            if voting:
                ids = torch.from_numpy(np.concatenate(voting)).to(cache.device)
                cache.pages(run.start).expiry.index_fill_(0, ids.long(), NEVER)
        reading.settled = self._settled(reading.slot)

    def _settled(self, slot: int) -> Settled:
        """What a reading that nothing changes any more holds, as all ranks have to know it."""
        cache = self.cache
        ids, lengths, _ = cache.table.ends(np.array([slot]), None)
        lasts = [self._lasts(run, ids[run], lengths[run]) for run in cache.layout.runs]
        own = lengths.max(axis=(1, 2)), torch.cat(lasts).cpu().numpy()
        longest, lasting = zip(*self.ranks.gather(own), strict=True)
        # A member's queries see a position as distant from their own step on: no two see the same of one copy.
        alone = np.array([cache.layers.alone(layer) for layer in range(len(ids))])
        return Settled(np.max(longest, axis=0), np.all(lasting, axis=0) & alone)

    def _lasts(self, run: slice, ids_LSKP: np.ndarray, lengths_LSK: np.ndarray) -> Tensor:
        """[L] bool, in which of some layers that are alike no entry of these lists ever expires."""
        pages, device = self.cache.pages(run.start), self.cache.device
        live = lengths_LSK[..., None] - np.arange(ids_LSKP.shape[-1]) * pages.size
        table, live_LSKP = (torch.from_numpy(array).to(device) for array in (ids_LSKP, live))
        expires = pages.expiry[table.long()] < NEVER
        expires &= torch.arange(pages.size, device=device) < live_LSKP[..., None]
        return ~expires.flatten(1).any(dim=1)
