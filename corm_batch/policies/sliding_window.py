"""The window a model itself puts on some of its layers: not a choice, so it has no name to select it by."""

from __future__ import annotations

from torch import Tensor

from corm_batch.policies.base import KVPolicy


class SlidingWindow(KVPolicy):
    """Keep the entries that the model's own sliding window can still reach.

    A query at step t sees the positions above t - window, its own included, as in transformers' sliding-window mask.
    """

    window: int

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """The last step whose window reaches back to the entry."""
        return position + (self.window - 1)
