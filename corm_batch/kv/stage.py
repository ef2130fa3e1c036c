"""Stage and SwappedCache: pages on their way: free ones that a forward pass may fill, and those in host memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class SwappedCache:
    """One sequence's own entries in host memory, and where they belong."""

    pages: tuple[Tensor, ...]  # [its pages, ...] uint8 on the host, column by column, lists one behind the other
    lengths: np.ndarray  # [L, K], those included that it shares

    @property
    def num_pages(self) -> int:
        """Pages it takes to come back."""
        return len(self.pages[0])


@dataclass(frozen=True)
class Stage:
    """Free pages that one forward pass may take, those its sequences hold already, and what it did with them.

    Attributes:
        slots: of the sequences.
        ids, fresh: [M] int32, the free pages, and the same on the device.
        used: [1] int32 on the device: how many were taken, beyond M if there were too few.
        own: of each layer, the pages that each sequence has there for itself.
        held, held_stops: the same on the device, layer after layer, and [L, S + 1] int32 where each begins and ends.
        stored: by call of `store`: layer, place of its first sequence in `slots`, entries stored [S, K].
    """

    slots: list[int]
    ids: np.ndarray
    fresh: Tensor
    used: Tensor
    own: list[list[np.ndarray]]
    held: Tensor
    held_stops: Tensor
    stored: list[tuple[int, int, Tensor]] = field(default_factory=list)
