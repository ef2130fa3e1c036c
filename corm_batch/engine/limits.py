"""Limits: what budgets let heads hold, in entries and in pages. Host numbers, worked out once for each length.

Asked for every layer of every prompt, and for every sequence at every admission. Knows no cache and holds none: what
is remembered for long must not keep a pool alive.
"""

from __future__ import annotations

from collections import abc
from functools import lru_cache

import numpy as np

from corm_batch.budgets.base import Place
from corm_batch.engine.ranks import Ranks
from corm_batch.policies.base import KVPolicy

_REMEMBERED = 4096
"""Lengths whose numbers are kept."""


class Limits:
    """What the heads of one rank may hold.

    Args:
        policies: one a layer.
        num_heads: kv heads of a layer that this rank has.
        page_sizes: by layer, entries a page.
        ranks: this one, and those that have the other heads.

    Attributes:
        places: the layers, as budgets are asked about them; what is pinned of a prompt comes on top.
        budgets: theirs, None for no bound.
        joint: of each layer, whether ranks have to look at each other's heads.
    """

    def __init__(
        self, policies: abc.Sequence[KVPolicy], num_heads: int, page_sizes: abc.Sequence[int], ranks: Ranks
    ) -> None:
        self.num_heads, self.page_sizes, self.num_ranks = num_heads, page_sizes, ranks.size
        self.own_heads = slice(ranks.rank * num_heads, (ranks.rank + 1) * num_heads)
        self.places = [
            Place(layer, len(policies), num_heads * ranks.size, policy.num_pinned)
            for layer, policy in enumerate(policies)
        ]
        self.budgets = [policy.budget_at(layer) for layer, policy in enumerate(policies)]
        self.joint = [
            ranks.size > 1 and budget is not None and (budget.shared or policy.one_choice)
            for policy, budget in zip(policies, self.budgets, strict=True)
        ]
        self.mean_entries = lru_cache(_REMEMBERED)(self._mean_entries)
        self.pages = lru_cache(_REMEMBERED)(self._pages)

    def most(self, layer: int, num_tokens: int, num_pins: int = 0) -> int | np.ndarray:
        """Entries that the heads of a layer may hold of a sequence of so many tokens, of which so many are pinned.

        Returns:
            One number, or [K] of this rank's heads; all without a budget.
        """
        most = self._of_all_ranks(layer, num_tokens, num_pins)
        return most if isinstance(most, int) else most[self.own_heads]

    def may_bind(self, layer: int, num_tokens: int, num_pins: int = 0) -> bool:
        """Whether something may have to leave of so many tokens, in a head of any rank; True where no budget tells."""
        budget, place = self.budgets[layer], self.places[layer]
        most = None if budget is None else budget.most(place._replace(recent=place.recent + num_pins), num_tokens)
        return most is None or bool(np.min(most) < num_tokens)

    def _of_all_ranks(self, layer: int, num_tokens: int, num_pins: int) -> int | np.ndarray:
        """As `most`, of the heads of all ranks."""
        budget, place = self.budgets[layer], self.places[layer]
        if budget is None:
            return num_tokens
        most = budget.most(place._replace(recent=place.recent + num_pins), num_tokens)
        return max(1, most) if isinstance(most, int) else np.maximum(1, most)

    def _mean_entries(self, num_tokens: int, num_pins: int = 0) -> int:
        """Entries a head holds at most, of so many tokens; mean over layers, of which wide ones count more, and the
        heads of a rank, of the one that holds most: whom ranks admit goes by it, and all admit the same."""
        layers = range(len(self.places))
        mosts = (np.minimum(self._of_all_ranks(layer, num_tokens, num_pins), num_tokens) for layer in layers)
        by_rank = [np.broadcast_to(most, self.num_ranks * self.num_heads).reshape(self.num_ranks, -1) for most in mosts]
        widths = max(self.page_sizes) / np.array(self.page_sizes)
        return int(np.average(np.mean(by_rank, axis=2), axis=0, weights=widths).max())

    def _pages(self, num_tokens: int, num_pins: int = 0) -> int:
        """Pages that a sequence of so many tokens holds here at most, once what need not stay is gone."""
        pages = 0
        for layer, (budget, page_size) in enumerate(zip(self.budgets, self.page_sizes, strict=True)):
            held = np.minimum(self.most(layer, num_tokens, num_pins), np.full(self.num_heads, num_tokens))
            if budget is not None and budget.shared:  # one head may hold what all have together
                together = int(held.sum()) * self.num_ranks
                pages += min(together // page_size, self.num_heads * (num_tokens // page_size)) + self.num_heads
            else:
                pages += int((-(-held // page_size)).sum())
        return pages
