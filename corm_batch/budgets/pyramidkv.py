"""PyramidKV: much in the first layers, little in the last."""

from __future__ import annotations

from pydantic import Field

from corm_batch.budgets.base import Budget, Place


class PyramidKV(Budget, name="pyramidkv"):
    """Most in the first layer, falling along a line to the last, `max_kept` on average.

    Based on PyramidKV (arXiv 2406.02069), section 4.1: beyond the newest entries, which every layer keeps, the last
    layer may hold a share 1 / beta of the average and the first as much more as the last holds less. As in the paper's
    code, a first layer that could hold more than the document has gives the rest to the later ones. Deviation: a
    layer's count is rounded down, where that code rounds the step from layer to layer.
    """

    beta: float = Field(20.0, ge=1.0, description="average over the last layer's share: the larger, the steeper")

    def most(self, place: Place, num_tokens: int) -> int:
        """The line at this layer."""
        average = self.average(place, num_tokens) - place.recent
        first = min(2 * average - average / self.beta, max(average, num_tokens - place.recent))
        last = 2 * average - first
        way = place.layer / max(1, place.num_layers - 1)
        return place.recent + int((first + (last - first) * way if place.num_layers > 1 else average) + 1e-6)
