"""The same for every head of every layer."""

from __future__ import annotations

from corm_batch.budgets.base import Budget, Place


class Uniform(Budget, name="uniform"):
    """As many entries in every head of every layer."""

    def most(self, place: Place, num_tokens: int) -> int:
        """`max_kept`."""
        return self.average(place, num_tokens)
