"""Statistics: what is gathered of a key from the weights that query rows give it, each defined once, as numbers.

    a weight -> its share, weight ** power -> mean or max over the heads of the group -> sum, max or last of the rows

The definitions and the kernels all work from these numbers: another statistic is another line of the table.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Statistic(NamedTuple):
    """How a statistic is made.

    Attributes:
        power: of a weight; None for no weight at all but 1 for every row that sees the key and does not hit it.
        heads: how the query heads of a group are joined.
        rows: how rows are gathered; the last one alone where nothing before it counts.
        since_hit: whether a hit starts it anew, without the hitting row.
    """

    power: int | None
    heads: Literal["mean", "max"]
    rows: Literal["sum", "max", "last"]
    since_hit: bool = True

    @property
    def is_attention(self) -> bool:
        """Whether it adds up attention itself, of which shares may be told."""
        return (self.power, self.heads, self.rows) == (1, "mean", "sum")

    def of_rows(self, weight_KGRN: Tensor, visible_KRN: Tensor, hit_KRN: Tensor) -> Tensor:
        """What each row says of each key.

        Args:
            weight_KGRN: 0 where not visible.
            visible_KRN, hit_KRN: bool.

        Returns:
            [K, R, N] float32.
        """
        if self.power is None:
            return (visible_KRN & ~hit_KRN).float()
        share = weight_KGRN if self.power == 1 else weight_KGRN.pow(self.power)
        return share.amax(dim=1) if self.heads == "max" else share.mean(dim=1)

    def gathered(self, old: Tensor, found: Tensor, dim: int) -> Tensor:
        """`old` with what rows said, which lie along dimension `dim` of `found`."""
        if self.rows == "max":
            return torch.maximum(old, found.amax(dim=dim))
        if self.rows == "last":
            return found.select(dim, -1)
        return old + found.sum(dim=dim)


STATISTICS = {
    "sum": Statistic(1, "mean", "sum"),
    "sum_squares": Statistic(2, "mean", "sum"),
    "max": Statistic(1, "max", "max"),
    "last": Statistic(1, "mean", "last", since_hit=False),
    "count_low": Statistic(None, "max", "sum", since_hit=False),
}
