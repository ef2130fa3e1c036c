"""Eviction: policy and budget say which entries stay, the cache keeps these, and what was lost is counted.

Prefill, streaming and compaction ask the same question in the same place (`_survivors`), of entries that carry what the
policy needs and nothing else.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.limits import Limits
from corm_batch.engine.pins import num_pins, pinned_entries
from corm_batch.engine.ranks import Ranks
from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import Stage
from corm_batch.ops.packing import Packing, unpack_entries
from corm_batch.ops.pages import NEVER, Entries, read_pages, update_pages
from corm_batch.policies.base import KVPolicy, Seen

_READ_BYTES = 1 << 28
"""Keys that a compaction copies out of their pages at a time, for a policy that looks at them."""


@lru_cache(16)
def _each_step(steps: tuple[int, ...], device: torch.device) -> Tensor:
    """[S, 1, 1] int32; remembered, for a copy in every layer would have the device wait."""
    return torch.tensor(steps, dtype=torch.int32, device=device)[:, None, None]


@dataclass(frozen=True)
class Survivors:
    """What is to stay of one layer's entries, of neighbours in a pass.

    Attributes:
        slots: of these.
        layer, entries: whose, [K, N].
        keep: [K, N] bool.
        packing: where each sequence's stand.
    """

    slots: list[int]
    layer: int
    entries: Entries
    keep: Tensor
    packing: Packing

    def store(self, cache: KVCache, stage: Stage, values: abc.Sequence[Tensor] = ()) -> Tensor:
        """Store them, with the values of the layer's members; what was lost, see `KVCache.store`."""
        return cache.store(stage, self.slots, self.layer, self.entries, self.keep, self.packing, values)


class Eviction:
    """What stays of some sequences of one replica.

    Args:
        cache: where the entries are: those of this rank's heads.
        policies: one a layer.
        ranks: those that have the other heads.
    """

    def __init__(self, cache: KVCache, policies: abc.Sequence[KVPolicy], ranks: Ranks) -> None:
        self.cache, self.policies, self.ranks = cache, policies, ranks
        self._pinning = next((one for one in policies if one.num_first or one.pins_instruction), policies[0])
        self.limits = Limits(policies, cache.num_lists // len(policies), cache.layout.by_layer, ranks)

    def mean_entries(self, sequence: Sequence) -> int:
        """Entries of its own that a head of the sequence holds at most, however long its answer; mean over layers and
        heads."""
        most = self.limits.mean_entries(sequence.max_len, self._num_pins(sequence))
        return min(most, sequence.max_len - sequence.num_shared)

    def pages(self, sequence: Sequence, num_tokens: int) -> int:
        """Pages of its own that the sequence has here at most with so many tokens, once what need not stay is gone."""
        pages, num_lists = self.limits.pages(num_tokens, self._num_pins(sequence)), self.cache.num_lists
        if not sequence.num_shared:
            return pages
        # Besides its own entries, those copied of a page that is not full.
        own = num_tokens - sequence.num_shared
        return min(pages + num_lists, self.cache.most_pages(own - 2, 2))

    def may_bind(self, layer: int, sequence: Sequence) -> bool:
        """As `Limits.may_bind`, of the sequence, however long its answer."""
        return self.limits.may_bind(layer, sequence.max_len, self._num_pins(sequence))

    def survivors(
        self,
        sequences: abc.Sequence[Sequence],
        layer: int,
        entries: Entries,
        steps: abc.Sequence[int],
        packing: Packing,
        query: Tensor | None = None,
    ) -> Survivors:
        """What survives of one layer's entries, [K, N], of neighbours in a pass that have read so many tokens.

        Args:
            sequences, layer, entries: of the pass.
            steps, packing: how many each sequence has read, and where its entries stand.
            query: [H, N, D] of the same tokens, where nothing of the sequences was stored before.
        """
        key = entries.key if self.policies[layer].needs.keys else entries.key[..., :0]
        apart = unpack_entries(entries._replace(key=key, value=entries.value[..., :0]), packing)
        most = self._mosts(layer, steps, [self._num_pins(sequence) for sequence in sequences])
        step = steps[0] if len(set(steps)) == 1 else _each_step(tuple(steps), self.cache.device)
        keep = packing.pack(self._survivors(layer, sequences, apart, step, most, max(steps)))
        slots = [sequence.slot for sequence in sequences]
        if query is not None:
            self.cache.channels.choose(slots, layer, query, entries.key, keep, packing)
        return Survivors(slots, layer, entries, keep, packing)

    def compact(self, sequences: abc.Sequence[Sequence]) -> None:
        """As `Evictions.compact`, of sequences that this decides about."""
        slots = np.array([sequence.slot for sequence in sequences])
        steps = np.array([sequence.num_cached for sequence in sequences], dtype=np.int32)
        slot_S, step_S = (torch.from_numpy(x).to(self.cache.device) for x in (slots, steps))
        pins, longest = [self._num_pins(sequence) for sequence in sequences], int(steps.max())
        for layer, budget in enumerate(self.limits.budgets):
            if budget is not None:
                most = self._mosts(layer, steps.tolist(), pins)
                for rows in self._groups(layer, slots, most):
                    few = most if isinstance(most, int) else most[rows]
                    self._expire_surplus(layer, sequences[rows], slots[rows], slot_S[rows], step_S[rows], few, longest)
        # A launch in every layer would have the device wait for the host: those that are alike have one.
        layout, table, ops = self.cache.layout, self.cache.table, self.cache.ops
        each = [
            ops.compact_lists(self.cache.pool.layers[run.start], table.lists_of(run, slot_S), step_S)
            for run in layout.runs
        ]
        lost = each[0] if len(each) == 1 else torch.cat(each, dim=1)
        for sequence, lost_L in zip(sequences, lost.unflatten(1, (len(self.policies), -1)).mean(dim=2), strict=True):
            sequence.lost_statistic += lost_L
            sequence.num_compacted = len(sequence.output)
        self.cache.settle(slots)

    def pinned(self, sequence: Sequence, position: Tensor) -> Tensor | None:
        """Which of a sequence's tokens are pinned in the layers that pin any, of some positions; None for none."""
        return pinned_entries(self._pinning, [sequence], position)

    def _num_pins(self, sequence: Sequence) -> int:
        """Pinned tokens of its prompt, in the layers that pin any: these have one policy."""
        return num_pins(self._pinning, sequence.request)

    def _mosts(self, layer: int, steps: abc.Sequence[int], pins: abc.Sequence[int]) -> int | np.ndarray:
        """As `Limits.most`, of sequences of so many tokens, of which so many are pinned in the layers that pin any: one
        number, or [S, 1] or [S, K]."""
        pinning = self.policies[layer].num_first or self.policies[layer].pins_instruction
        asked = list(zip(steps, pins if pinning else [0] * len(steps), strict=True))
        most = {one: self.limits.most(layer, *one) for one in set(asked)}
        mosts = np.array([most[one] for one in asked]).reshape(len(asked), -1)
        return int(mosts.flat[0]) if (mosts == mosts.flat[0]).all() else mosts

    def _survivors(
        self,
        layer: int,
        sequences: abc.Sequence[Sequence],
        entries: Entries,
        step: int | Tensor,
        most: int | np.ndarray,
        num_tokens: int,
    ) -> Tensor:
        """Which entries a query after `step` may see, the budget applied; what a reading holds stays, and is no part of
        what those who ask about it may hold.

        Args:
            layer, sequences: whose entries these are.
            entries: [..., K, N], padding at position NEVER, with what the policy needs.
            step: the last step taken; a tensor is [..., 1, 1].
            most: what a head may hold; an array is [..., K] or [..., 1].
            num_tokens: tokens of the longest of the sequences: no head has more entries.

        Returns:
            [..., K, N] bool.
        """
        shared = tuple(sequence.num_shared for sequence in sequences)
        if not any(shared):
            return self._chosen(layer, sequences, entries, step, most, num_tokens)
        theirs = entries.position <= _each_step(shared, self.cache.device)
        own = entries._replace(position=entries.position.masked_fill(theirs, NEVER))
        return theirs | self._chosen(layer, sequences, own, step, most, num_tokens)

    def _chosen(
        self,
        layer: int,
        sequences: abc.Sequence[Sequence],
        entries: Entries,
        step: int | Tensor,
        most: int | np.ndarray,
        num_tokens: int,
    ) -> Tensor:
        """As `_survivors`, of entries that are the sequences' own."""
        policy, keep = self.policies[layer], (entries.position <= step) & (entries.expiry > step)
        budget, num_entries = self.limits.budgets[layer], keep.shape[-1]
        # Ranks that look at each other's heads go by what is the same in all of them.
        longest = num_tokens if self.limits.joint[layer] else num_entries
        if budget is None or longest <= np.min(most):
            return keep
        rank = policy.rank(layer, Seen(policy, entries), step)
        if policy.one_choice:
            mean = self.ranks.gather_heads(rank).float().mean(dim=-2, keepdim=True)
            rank = mean[..., :num_entries].expand_as(rank)
        if (pinned := pinned_entries(policy, sequences, entries.position)) is not None:
            top = torch.inf if rank.is_floating_point() else NEVER
            highest = torch.finfo(rank.dtype).max if rank.is_floating_point() else NEVER - 1
            rank = rank.clamp(max=highest).masked_fill(pinned, top)  # of equals the newest stay: there must be none
        limit = most if isinstance(most, int) else torch.from_numpy(np.ascontiguousarray(most)).to(keep.device)
        if budget.shared:
            everybody = self.ranks.gather_heads(rank), self.ranks.gather_heads(keep)
            limit = budget.split(self.limits.places[layer], limit, *everybody)[..., self.limits.own_heads]
        if isinstance(limit, Tensor):
            limit = limit.expand(keep.shape[:-1]).flatten()
        rank_LN, position_LN, keep_LN = (column.flatten(0, -2) for column in (rank, entries.position, keep))
        return self.cache.ops.top_entries(rank_LN, position_LN, keep_LN, limit).view(keep.shape)

    def _groups(self, layer: int, slots: np.ndarray, most: int | np.ndarray) -> list[slice]:
        """Rows of `slots` to look at together: all of them, none where no head holds too much, or as many at a time as
        keys fit that a policy wants to see."""
        cache, policy = self.cache, self.policies[layer]
        lengths = cache.table.lengths[slots, layer] - cache.table.shared[slots, layer]
        joint = self.limits.joint[layer]
        if not joint and (lengths <= most).all():
            return []
        if not policy.needs.keys:
            return [slice(None)]
        head_dim = cache.pages(layer).key.shape[-1]
        row_bytes = lengths.shape[1] * int(lengths.max()) * head_dim * torch.float32.itemsize  # decoded, at most
        size = max(1, _READ_BYTES // max(1, row_bytes))
        size = cache.agree(size) if joint else size
        return [slice(start, start + size) for start in range(0, len(slots), size)]

    def _expire_surplus(
        self,
        layer: int,
        sequences: abc.Sequence[Sequence],
        slots: np.ndarray,
        slot_S: Tensor,
        step_S: Tensor,
        most: int | np.ndarray,
        num_tokens: int,
    ) -> None:
        """Let what the budget leaves no room for expire with the last step; `most`, `num_tokens` as in `_survivors`."""
        pages = self.cache.pages(layer)
        table, length = self.cache.table.own_lists(layer, slots, slot_S)
        needed = pages._replace(value=pages.value[..., :0])
        if not self.policies[layer].needs.keys:
            needed = needed._replace(key=pages.key[..., :0])
        channels, head_dim, basis = self.cache.channels.of(layer, slot_S), self.cache.head_dim, self.cache.bases[layer]
        entries = read_pages(needed, table, length, self.cache.form, channels, head_dim, basis)
        step = step_S[:, None, None]
        lost = (entries.position <= step) & ~self._survivors(layer, sequences, entries, step, most, num_tokens)
        expiry = torch.where(lost, torch.minimum(entries.expiry, step), entries.expiry)
        update_pages(pages, table, expiry, entries.statistic)
