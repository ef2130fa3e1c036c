"""Stage, Ends and SwappedCache: pages that a forward pass may fill, those that it reads, and those in host memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GATHERED_ENTRIES = 1 << 19
"""Entries that a layer of a forward pass copies out of their pages at a time, over all kv heads: 256 MiB of keys and
values of 128 numbers in 16 bits. One sequence that has more is copied all the same."""


class Ends(NamedTuple):
    """What S sequences hold in every layer, from some page of each list on, as a forward pass reads it.

    Attributes:
        table: [L, S, K, P] int32 page ids, padded with 0.
        length: [L, S, K] int32 entries in these pages.
        others: [L, S, K] int32 how many of them, the first ones, stand in pages that other sequences have, too.
        widths: [L, S] on the host: entries that the pages of a sequence's longest list there have room for.
        slot: [S] int64, of the sequences.
    """

    table: Tensor
    length: Tensor
    others: Tensor
    widths: np.ndarray
    slot: Tensor

    def part(self, sequences: slice) -> Ends:
        """The same of some of the sequences."""
        held = self.table[:, sequences], self.length[:, sequences], self.others[:, sequences]
        return Ends(*held, self.widths[:, sequences], self.slot[sequences])


@dataclass(frozen=True)
class SwappedCache:
    """One sequence's own entries in host memory, and where they belong."""

    pages: Tensor  # [its pages, page_bytes / 8] int64 on the host, lists one behind the other
    lengths: np.ndarray  # [L, K], those included that it shares
    channels: Tensor | None = None  # [L, K, W] uint8, see `Lists`

    @property
    def num_pages(self) -> int:
        """Pages it takes to come back."""
        return len(self.pages)


@dataclass(frozen=True)
class Stage:
    """Free pages that one forward pass may take, those its sequences hold already, and what it did with them.

    Attributes:
        slots: of the sequences.
        ids, fresh: [M] int32, the free pages, and the same on the device.
        used: [1] int32 on the device: how many were taken, beyond M if there were too few.
        slot: [S] int64, `slots` on the device.
        own: of each layer, the pages that each sequence has there for itself.
        held, held_stops: the same on the device, layer after layer, and [L, S + 1] int32 where each begins and ends.
        stored: by call of `store`: layer, place of its first sequence in `slots`, entries stored [S, K].
    """

    slots: list[int]
    ids: np.ndarray
    fresh: Tensor
    used: Tensor
    slot: Tensor
    own: list[list[np.ndarray]]
    held: Tensor
    held_stops: Tensor
    stored: list[tuple[int, int, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, slots: list[int], own: list[list[np.ndarray]], num_fresh: int, device: torch.device) -> Stage:
        """With room for so many free pages, which are to be named; `slots`, `own` as above."""
        sizes = np.array([[len(ids) for ids in layer] for layer in own], np.int32).reshape(len(own), len(slots))
        stops = sizes.cumsum(dtype=np.int32).reshape(sizes.shape)
        stops = np.concatenate((stops[:, :1] - sizes[:, :1], stops), axis=1)
        held = np.concatenate([np.empty(0, np.int32), *(ids for layer in own for ids in layer)])
        fresh = torch.empty(num_fresh, dtype=torch.int32, device=device)
        used = torch.zeros(1, dtype=torch.int32, device=device)
        numbers = held, stops, np.array(slots, np.int64)
        held_ids, held_stops, slot = (torch.from_numpy(array).to(device) for array in numbers)
        return cls(slots, np.empty(0, np.int32), fresh, used, slot, own, held_ids, held_stops)

    def taken(
        self, counts: np.ndarray, num_pages: np.ndarray
    ) -> tuple[dict[int, list[np.ndarray]], dict[int, list[np.ndarray]], np.ndarray]:
        """What the pass left, of entries [M, K] and pages [M] that M layers of sequences stored, in the order of calls.

        Returns:
            By place in `slots`, layer after layer, the ids of the pages and the entries of each list; and the ids of
            the pages that nothing lies in.
        """
        rows = [(layer, first + n) for layer, first, stored in self.stored for n in range(len(stored))]
        found = dict[tuple[int, int], tuple[list[np.ndarray], np.ndarray]]()
        surplus, start = [np.empty(0, np.int32)], 0
        for (layer, place), count, total in zip(rows, counts, num_pages.tolist(), strict=True):
            own = self.own[layer][place]
            stop = start + max(0, total - len(own))
            found[place, layer] = [own[:total], self.ids[start:stop]], count
            surplus.append(own[total:])
            start = stop
        ids: dict[int, list[np.ndarray]] = {}
        lengths: dict[int, list[np.ndarray]] = {}
        for (place, _), (pages, count) in sorted(found.items(), key=lambda one: one[0]):
            ids.setdefault(place, []).extend(pages)
            lengths.setdefault(place, []).append(count)
        return ids, lengths, np.concatenate((*surplus, self.ids[start:]))
