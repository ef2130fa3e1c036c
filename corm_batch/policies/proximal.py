"""What a member of a group keeps by itself (`kv.groups`): not a choice, so it has no name to select it by."""

from __future__ import annotations

from torch import Tensor

from corm_batch.budgets.base import Budget
from corm_batch.budgets.uniform import Uniform
from corm_batch.kv.groups import Groups
from corm_batch.policies.base import KVPolicy


class Proximal(KVPolicy):
    """Keep the first entries and the newest: those of distant tokens are in the pages of another layer."""

    groups: Groups

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Never for the first; the last step that an entry is near to for the others."""
        return self.groups.expiry(position)

    def budget_at(self, layer: int) -> Budget:
        """As many as these are: what is reserved for them goes by it."""
        return Uniform(max_kept=self.groups.first + self.groups.recent)
