"""Groups: neighbouring layers of which the first has the keys of distant tokens for all, as a model was trained to.

group (3, 4, 5)     layer 3, the owner         keys and values of its own, as any layer
                    layers 4 and 5, members    of the first and the newest tokens likewise; of all others values alone,
                                               which stand in layer 3's pages beside its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from corm_batch.ops.pages import NEVER


class Member(NamedTuple):
    """Where a member's distant entries are: the layer that owns them, and which of its members it is, from 1 on."""

    owner: int
    number: int


@dataclass(frozen=True)
class Groups:
    """Which layers of a model share keys of distant tokens (PoD, arXiv 2412.02252).

    Attributes:
        layers: of each group, neighbours, the owner first; counted from 0.
        first: positions at the beginning that are never distant.
        recent: the newest tokens of a query, its own included, that are not.
    """

    layers: tuple[tuple[int, ...], ...]
    first: int
    recent: int

    def __post_init__(self) -> None:
        if self.first < 0 or self.recent < 1:
            raise ValueError(f"expected first of 0 or more and recent of 1 or more, got {self.first} and {self.recent}")
        last = -1
        for group in self.layers:
            if len(group) < 2 or list(group) != list(range(group[0], group[0] + len(group))) or group[0] <= last:
                raise ValueError(f"expected groups of two or more neighbouring layers, in order, got {self.layers}")
            last = group[-1]

    @cached_property
    def members(self) -> dict[int, Member]:
        """By layer that is one."""
        return {layer: Member(owner, n) for owner, *others in self.layers for n, layer in enumerate(others, 1)}

    def num_members(self, num_layers: int) -> Sequence[int]:
        """By layer how many others have values in its pages."""
        sizes = {group[0]: len(group) - 1 for group in self.layers}
        return [sizes.get(layer, 0) for layer in range(num_layers)]

    def expiry(self, position: Tensor) -> Tensor:
        """The last step at which a member's query sees a position by the member's own key, [...] int32."""
        return torch.where(position <= self.first, NEVER, position + (self.recent - 1))

    def num_proximal(self, start: int, stop: int) -> int:
        """How many of the tokens behind `start` of them up to the newest, number `stop`, the next query will see so."""
        near = max(start, stop + 1 - self.recent)
        return stop - near + max(0, min(self.first, near) - start)

    def check(self, num_layers: int) -> None:
        """Make sure that a model has these layers.

        Raises:
            ValueError: it has not.
        """
        if self.layers and self.layers[-1][-1] >= num_layers:
            raise ValueError(f"expected layers 0..{num_layers - 1}, got {self.layers}")
