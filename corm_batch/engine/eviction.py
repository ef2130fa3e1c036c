"""Eviction: policy and budget say which entries stay, the cache keeps these, and what was lost is counted.

Prefill, streaming and compaction ask the same question in the same place (`_survivors`), of entries that carry what the
policy needs and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from corm_batch.budgets.base import Place
from corm_batch.engine.ranks import Ranks
from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache, Stage
from corm_batch.ops.pages import Entries, read_pages, update_pages
from corm_batch.ops.top import order_entries
from corm_batch.policies.base import KVPolicy, Seen

_READ_BYTES = 1 << 28
"""Keys that a compaction copies out of their pages at a time, for a policy that looks at them."""


class Eviction:
    """What stays of the sequences of one replica.

    Args:
        cache: where the entries are: those of this rank's heads.
        policies: one a layer.
        ranks: those that have the other heads.
    """

    def __init__(self, cache: KVCache, policies: Seq[KVPolicy], ranks: Ranks) -> None:
        self.cache, self.policies, self.ranks = cache, policies, ranks
        self.num_heads = cache.num_lists // len(policies)
        self._places = [
            Place(layer, len(policies), self.num_heads * ranks.size, policy.num_pinned)
            for layer, policy in enumerate(policies)
        ]
        self.most_entries = lru_cache(maxsize=4096)(self._most_entries)  # asked of every sequence at every admission
        self._own_heads = slice(ranks.rank * self.num_heads, (ranks.rank + 1) * self.num_heads)

    def _most_entries(self, num_tokens: int) -> int:
        """Entries a head holds at most, of so many tokens; mean over layers and heads."""
        mosts = (self._most(layer, num_tokens) for layer in range(len(self.policies)))
        return int(np.mean([np.minimum(most, num_tokens).mean() for most in mosts]))

    def most_pages(self, num_tokens: int) -> int:
        """Pages that a sequence of so many tokens holds here at most, once what need not stay is gone."""
        page_size, pages = self.cache.pool.page_size, 0
        for layer, policy in enumerate(self.policies):
            budget = policy.budget_at(layer)
            held = np.minimum(self._most(layer, num_tokens), np.full(self.num_heads, num_tokens))
            if budget is not None and budget.shared:  # one head may hold what all have together
                together = int(held.sum()) * self.ranks.size
                pages += min(together // page_size, self.num_heads * (num_tokens // page_size)) + self.num_heads
            else:
                pages += int((-(-held // page_size)).sum())
        return pages

    def store(self, stage: Stage, slot: int, layer: int, entries: Entries, step: int) -> Tensor:
        """Store what survives of one layer's entries, [K, N], of a sequence that has read `step` tokens.

        Returns:
            The statistic of those that did not, summed up, [K].
        """
        keep = self._survivors(layer, entries, step, self._most(layer, step), step)
        return self.cache.store(stage, slot, layer, entries, keep)

    def compact(self, sequences: Seq[Sequence]) -> None:
        """Free every page of running sequences that only entries need which do not stay. Waits for the device."""
        slots = np.array([sequence.slot for sequence in sequences])
        steps = np.array([sequence.num_cached for sequence in sequences], dtype=np.int32)
        slot_S, step_S = (torch.from_numpy(x).to(self.cache.device) for x in (slots, steps))
        losses = []
        for layer, policy in enumerate(self.policies):
            if policy.budget_at(layer) is not None:
                for rows in self._groups(layer, slots, steps):
                    self._expire_surplus(layer, slots[rows], slot_S[rows], steps[rows], step_S[rows])
            lost_SK = self.cache.ops.compact_lists(self.cache.pool.pages, self.cache.lists(layer, slot_S), step_S)
            losses.append(lost_SK.mean(dim=1))
        for sequence, lost_L in zip(sequences, torch.stack(losses, dim=1), strict=True):
            sequence.lost_statistic += lost_L
            sequence.num_compacted = len(sequence.output)
        self.cache.settle(slots)

    def _most(self, layer: int, num_tokens: int) -> int | np.ndarray:
        """Entries that the heads of a layer may hold: one number, or [K] of this rank's heads; all without a budget."""
        budget = self.policies[layer].budget_at(layer)
        if budget is None:
            return num_tokens
        most = budget.most(self._places[layer], num_tokens)
        return max(1, most) if isinstance(most, int) else np.maximum(1, most[self._own_heads])

    def _is_joint(self, layer: int) -> bool:
        """Whether ranks have to look at each other's heads."""
        policy = self.policies[layer]
        budget = policy.budget_at(layer)
        return self.ranks.size > 1 and budget is not None and (budget.shared or policy.one_choice)

    def _survivors(
        self, layer: int, entries: Entries, step: int | Tensor, most: int | np.ndarray, num_tokens: int
    ) -> Tensor:
        """Which entries a query after `step` may see, the budget applied.

        Args:
            layer: whose entries these are.
            entries: [..., K, N], padding at position NEVER, with what the policy needs.
            step: the last step taken; a tensor is [..., 1, 1].
            most: what a head may hold; an array is [..., K] or [..., 1].
            num_tokens: tokens of the longest of the sequences: no head has more entries.

        Returns:
            [..., K, N] bool.
        """
        policy, keep = self.policies[layer], (entries.position <= step) & (entries.expiry > step)
        budget, num_entries = policy.budget_at(layer), keep.shape[-1]
        # Ranks that look at each other's heads go by what is the same in all of them.
        longest = num_tokens if self._is_joint(layer) else num_entries
        if budget is None or longest <= np.min(most):
            return keep
        rank = policy.rank(layer, Seen(policy, entries), step)
        if policy.one_choice:
            mean = self.ranks.gather_heads(rank).float().mean(dim=-2, keepdim=True)
            rank = mean[..., :num_entries].expand_as(rank)
        limit = most if isinstance(most, int) else torch.from_numpy(np.ascontiguousarray(most)).to(keep.device)
        if budget.shared:
            everybody = self.ranks.gather_heads(rank), self.ranks.gather_heads(keep)
            limit = budget.split(self._places[layer], limit, *everybody)[..., self._own_heads]
        if isinstance(limit, Tensor):
            limit = limit.expand(keep.shape[:-1]).flatten()
        order = order_entries(rank, entries.position)
        return self.cache.ops.top_entries(order.flatten(0, -2), keep.flatten(0, -2), limit).view(keep.shape)

    def _groups(self, layer: int, slots: np.ndarray, steps: np.ndarray) -> list[slice]:
        """Rows of `slots` to look at together: all of them, none where no head holds too much, or as many at a time as
        keys fit that a policy wants to see."""
        cache, policy = self.cache, self.policies[layer]
        lengths = cache.table.lengths[slots, layer]
        joint = self._is_joint(layer)
        if not joint:
            most = np.stack([np.broadcast_to(self._most(layer, int(step)), lengths.shape[1]) for step in steps])
            if (lengths <= most).all():
                return []
        if not policy.needs.keys:
            return [slice(None)]
        row_bytes = lengths.shape[1] * int(lengths.max()) * cache.pool.columns[0].num_bytes
        size = max(1, _READ_BYTES // max(1, row_bytes))
        size = cache.agree(size) if joint else size
        return [slice(start, start + size) for start in range(0, len(slots), size)]

    def _expire_surplus(self, layer: int, slots: np.ndarray, slot_S: Tensor, steps: np.ndarray, step_S: Tensor) -> None:
        """Let what the budget leaves no room for expire with the last step."""
        pages, lists, page_size = self.cache.pool.pages, self.cache.lists(layer, slot_S), self.cache.pool.page_size
        width = -(-int(self.cache.table.lengths[slots, layer].max()) // page_size)
        length = lists.length[slot_S]
        first_entry = torch.arange(width, device=self.cache.device) * page_size
        # Behind a list's last page the table may name pages that are others' by now.
        table = lists.table[slot_S, :, :width].masked_fill(first_entry >= length[..., None], 0)
        needed = pages._replace(value=pages.value[..., :0])
        if not self.policies[layer].needs.keys:
            needed = needed._replace(key=pages.key[..., :0])
        entries, step = read_pages(needed, table, length), step_S[:, None, None]
        mosts = np.stack([np.atleast_1d(self._most(layer, int(n))) for n in steps])  # [S, 1] or [S, K]
        most = int(mosts.flat[0]) if (mosts == mosts.flat[0]).all() else mosts
        lost = (entries.position <= step) & ~self._survivors(layer, entries, step, most, int(steps.max()))
        expiry = torch.where(lost, torch.minimum(entries.expiry, step), entries.expiry)
        update_pages(pages, table.long(), expiry, entries.statistic)
