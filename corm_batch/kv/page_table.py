"""PageTable: which pages hold the entries of each (sequence, layer, kv head), and how many entries there are.

    pages   [slot, L, K, P]  page ids, padded with 0        lengths [slot, L, K]  entries stored
    slot 0  layer 0  head 0:  [7 3 9 . ]  length 35          every list has a length of its own
                     head 1:  [4 . . . ]  length 11

A list may begin with entries of another sequence's, a reading that several ask about: its whole pages are shared, and
what stands in the last one, where that is not full, is copied when the sequence first stores something of its own.

    reading [3 8 5]   35 entries, all its own               fork [3 8 9]   39, of which 35 are shared: 9 has a copy of 3

The host holds the truth about pages (numpy) and a device copy follows every change. Lengths are counted on both sides,
so that a decode step needs no word from either: `lengths` here, and the device's own, which kernels change in place.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corm_batch.kv.layout import Layout
from corm_batch.ops.pages import Lists

Index = np.ndarray | int | slice


class PageTable:
    """Lists of page ids for up to `num_slots` sequences, of as many layers as a layout has.

    There is room for as many slots as were ever open at once and for as long a list as there ever was: a few sequences
    of very long lists, or many of short ones, take little of a device.
    """

    def __init__(self, num_slots: int, layout: Layout, num_kv_heads: int, device: torch.device) -> None:
        self.layout, self.page_size = layout, layout.sizes
        num_layers = len(layout.by_layer)
        self.lengths = np.zeros((num_slots, num_layers, num_kv_heads), dtype=np.int32)
        self.num_pages = np.zeros_like(self.lengths)  # a list may hold pages for entries still to come
        self.shared = np.zeros_like(self.lengths)  # entries at a list's beginning that are another sequence's
        self.version = 0  # of the device's copy: another one lies elsewhere
        self._pages = np.zeros((min(num_slots, 8), num_layers, num_kv_heads, 8), dtype=np.int32)
        self._device = device
        self._device_lengths = torch.zeros(self.lengths.shape, dtype=torch.int32, device=device)
        self._device_shared = torch.zeros_like(self._device_lengths)
        self._copy = self._upload(self._pages)

    def grow(self, num_slots: int, num_pages: int) -> None:
        """Have room for so many slots and for lists of so many pages; what follows needs it.

        Raises:
            torch.OutOfMemoryError: nothing has changed.
        """
        slots, *_, width = self._pages.shape
        if num_slots <= slots and num_pages <= width:
            return
        more_slots = min(len(self.lengths), max(num_slots, 2 * slots)) - slots if num_slots > slots else 0
        more_pages = max(num_pages, 2 * width) - width if num_pages > width else 0
        pages = np.pad(self._pages, ((0, more_slots), (0, 0), (0, 0), (0, more_pages)))
        self._copy = self._upload(pages)
        self._pages = pages
        self.version += 1

    def lists(self, layer: int, slot_S: Tensor) -> Lists:
        """One layer's lists as kernels read them; valid while `version` stays the same."""
        return Lists(self._copy[:, layer], self._device_lengths[:, layer], slot_S, self._device_shared[:, layer])

    def lists_of(self, layers: slice, slot_S: Tensor) -> Lists:
        """The lists of neighbouring layers side by side, [slots, L * K, P]; valid as `lists` are."""
        lengths, shared = self._device_lengths[:, layers].flatten(1), self._device_shared[:, layers].flatten(1)
        return Lists(self._copy[:, layers].flatten(1, 2), lengths, slot_S, shared)

    def row(self, slot: int, layer: int) -> tuple[Tensor, Tensor]:
        """One sequence's page ids [K, P], as many as its longest list fills, and lengths [K] in one layer, on the
        device; valid as `lists` are."""
        width = -(-int(self.lengths[slot, layer].max()) // self.layout.by_layer[layer])
        return self._copy[slot, layer, :, :width], self._device_lengths[slot, layer]

    def own_lists(self, layer: int, slots: np.ndarray, slot_S: Tensor) -> tuple[Tensor, Tensor]:
        """What lists of one layer hold behind the pages that they share: of `slots`, which are `slot_S` on the device,
        page ids [S, K, P] int64, padded with 0, and entries there, [S, K]."""
        lists, size = self.lists(layer, slot_S), self.layout.by_layer[layer]
        longest = int((self.lengths[slots, layer] - self.num_shared(slots)[:, layer] * size).max())
        first = lists.shared[slot_S] // size
        length = lists.length[slot_S] - first * size
        place = torch.arange(-(-longest // size), device=self._device)
        # Behind a list's last page the table may name pages that are others' by now.
        held = place * size < length[..., None]
        index = torch.where(held, first[..., None] + place, 0)
        head = torch.arange(first.shape[1], device=self._device)[:, None]
        return lists.table[slot_S[:, None, None], head, index].masked_fill(~held, 0).long(), length

    def ends(self, slots: np.ndarray, most_before: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What lists of every layer hold from a page of their own on, or from one before it.

        Args:
            slots: whose.
            most_before: how many of the pages that a list shares are told, too, the last ones; None for all.

        Returns:
            Page ids [L, S, K, P], padded with 0; entries in these pages, [L, S, K]; and how many of them, in the first
            ones, are in pages that are shared, [L, S, K].
        """
        shared, every = (np.moveaxis(one, 0, 1).copy() for one in (self.num_shared(slots), self.lengths[slots]))
        before = shared if most_before is None else np.minimum(shared, most_before)
        first, (layer, slot, head) = shared - before, np.ogrid[: len(shared), : len(slots), : shared.shape[2]]
        size = self.page_size if isinstance(self.page_size, int) else self.page_size[:, None]  # [L, 1, 1]
        lengths = every - first * size
        num_pages = -(-lengths // size)
        place = np.arange(int(num_pages.max(initial=0)))
        held = place < num_pages[..., None]
        number = np.where(held, first[..., None] + place, 0)
        ids = self._pages[slots[slot][..., None], layer[..., None], head[..., None], number]
        return np.where(held, ids, 0), lengths, before * size

    def get_lists(self, slot: int) -> np.ndarray:
        """The ids of the pages a sequence has a hold of, lists one behind the other."""
        return self._between(slot, np.zeros_like(self.num_pages[slot]))

    def get_own(self, slot: int) -> np.ndarray:
        """The same without those it shares."""
        return self._between(slot, self.num_shared(slot))

    def get_layers(self, slot: int) -> list[np.ndarray]:
        """The same as `get_own`, layer by layer."""
        counts = (self.num_pages[slot] - self.num_shared(slot)).sum(axis=1)
        return np.split(self.get_own(slot), counts.cumsum()[:-1])

    def num_shared(self, slots: Index) -> np.ndarray:
        """Whole pages at the beginning of each list that hold nothing but shared entries: [..., L, K]."""
        pages: np.ndarray = self.shared[slots] // self.page_size
        return pages

    def num_own(self, slots: Index) -> np.ndarray:
        """How many pages are each sequence's alone: [...]."""
        own: np.ndarray = (self.num_pages[slots] - self.num_shared(slots)).sum(axis=(-2, -1))
        return own

    def set_lists(self, slot: int, ids: np.ndarray, lengths_LK: np.ndarray) -> None:
        """Replace what every list of a sequence has behind its shared pages.

        Args:
            slot: of the sequence.
            ids: the pages that what is its own fills, lists one behind the other.
            lengths_LK: entries of each list, shared ones included.
        """
        want, first = -(-lengths_LK // self.page_size), self.num_shared(slot)
        rows = self._pages[slot]
        place = np.arange(rows.shape[-1])
        rows[place >= first[..., None]] = 0
        rows[(place >= first[..., None]) & (place < want[..., None])] = ids
        self.num_pages[slot] = want
        if self._device.type != "cpu":
            self._copy[slot] = self._upload(rows)
        self.set_lengths(slot, lengths_LK)

    def fork(self, slot: int, source: int) -> None:
        """Have an empty slot begin with all that another one holds: whole pages of it are shared, and of a last page
        that is not full the entries are seen where they stand until `set_lists` names a copy of them."""
        self._pages[slot] = self._pages[source]
        self.num_pages[slot] = self.lengths[source] // self.page_size
        if self._device.type != "cpu":
            self._copy[slot] = self._copy[source]
        self.set_lengths(slot, self.lengths[source])
        self.shared[slot] = self.lengths[source]
        self._device_shared[slot] = self._device_lengths[source]

    def set_lengths(self, slots: np.ndarray | int, lengths: np.ndarray) -> None:
        """Say on both sides how many entries each list of `slots` has: [..., L, K]."""
        self.lengths[slots] = lengths
        self._device_lengths[slots] = self._upload(np.ascontiguousarray(lengths, dtype=np.int32), copy=True)

    def read_lengths(self, slots: np.ndarray) -> np.ndarray:
        """What the device counts: [S, L, K]. Waits for the device."""
        lengths: np.ndarray = self._device_lengths[torch.from_numpy(slots).to(self._device)].cpu().numpy()
        return lengths

    def clear(self, slot: int) -> None:
        """Empty every list of a sequence; of its lengths the device needs no word, as nobody asks for the slot."""
        self.lengths[slot] = 0
        self.num_pages[slot] = 0
        if self.shared[slot].any():
            self.shared[slot] = 0
            self._device_shared[slot] = 0

    def missing(self, slots: np.ndarray, num_entries: int) -> np.ndarray:
        """Pages each list of `slots` lacks to take `num_entries` more: [S, L, K]."""
        need: np.ndarray = -(-(self.lengths[slots] + num_entries) // self.page_size) - self.num_pages[slots]
        return need.clip(min=0)

    def extend(self, slots: np.ndarray, missing_SLK: np.ndarray, ids: np.ndarray) -> None:
        """Put pages behind each list's own, as many as it lacks."""
        places = []
        for turn in range(int(missing_SLK.max(initial=0))):
            row, layer, head = np.nonzero(missing_SLK > turn)
            index = slots[row], layer, head
            places.append((*index, self.num_pages[index]))
            self.num_pages[index] += 1
        if places:
            place = tuple(np.concatenate(column) for column in zip(*places, strict=True))
            self._pages[place] = ids
            if self._device.type != "cpu":
                flat = np.ravel_multi_index(place, self._pages.shape)
                self._copy.view(-1).index_copy_(0, self._upload(flat), self._upload(ids))

    def trim(self, slots: np.ndarray) -> np.ndarray:
        """Let go of the pages that no entry lies in; the device needs no word of it, as nothing reads beyond a length.

        Returns:
            Their ids.
        """
        want = -(-self.lengths[slots] // self.page_size)
        surplus = self.num_pages[slots] - want
        freed = [np.empty(0, np.int32)]
        for turn in range(int(surplus.max(initial=0))):
            row, layer, head = np.nonzero(surplus > turn)
            freed.append(self._pages[slots[row], layer, head, want[row, layer, head] + turn])
        self.num_pages[slots] = want
        return np.concatenate(freed)

    def _between(self, slot: int, first_LK: np.ndarray) -> np.ndarray:
        """The ids of a sequence's pages from the given one of each list on, lists one behind the other."""
        if not self.num_pages[slot].any():  # as every sequence when it is opened
            return np.empty(0, np.int32)
        place = np.arange(self._pages.shape[-1])
        held = (place >= first_LK[..., None]) & (place < self.num_pages[slot][..., None])
        ids: np.ndarray = self._pages[slot][held]
        return ids

    def _upload(self, array: np.ndarray, copy: bool = False) -> Tensor:
        """The array on the device; on a CPU the same memory unless a copy is asked for."""
        return torch.from_numpy(array).to(self._device, copy=copy)
