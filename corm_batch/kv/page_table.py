"""PageTable: which pages hold the entries of each (sequence, layer, kv head), and how many entries there are.

    pages   [slot, L, K, P]  page ids, padded with 0        lengths [slot, L, K]  entries stored
    slot 0  layer 0  head 0:  [7 3 9 . ]  length 35          every list has a length of its own
                     head 1:  [4 . . . ]  length 11

The host holds the truth (numpy); a device copy follows every change, and on a CPU is the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class PageTable:
    """Lists of page ids for up to `num_slots` sequences; the longest list grows as needed."""

    def __init__(
        self, num_slots: int, num_layers: int, num_kv_heads: int, page_size: int, device: torch.device
    ) -> None:
        self.page_size = page_size
        self.lengths = np.zeros((num_slots, num_layers, num_kv_heads), dtype=np.int64)
        self._pages = np.zeros((num_slots, num_layers, num_kv_heads, 8), dtype=np.int64)
        self._device = device
        self._copy = self._upload()

    def _upload(self) -> Tensor:
        return torch.from_numpy(self._pages).to(self._device)

    def num_pages(self, slots: np.ndarray | int) -> np.ndarray:
        """Pages held by each list of `slots`: [..., L, K]."""
        lengths: np.ndarray = self.lengths[slots]
        return -(-lengths // self.page_size)

    def lists(self, slots: Tensor, layer: int, num_pages: int) -> Tensor:
        """The first `num_pages` page ids of each list of one layer, on the device: [..., K, P] int64."""
        return self._copy[slots, layer, :, :num_pages]

    def page_of(self, slots: np.ndarray, layer: int) -> np.ndarray:
        """The page the last entry of each list lies in: [S, K] int64."""
        last = np.maximum(self.lengths[slots, layer] - 1, 0) // self.page_size
        rows = slots[:, None], layer, np.arange(self.lengths.shape[2])[None, :]
        pages: np.ndarray = self._pages[(*rows, last)]
        return pages

    def set_lists(self, slot: int, layer: int, ids: Sequence[np.ndarray], lengths: np.ndarray) -> None:
        """Replace the lists of one layer, one for each head."""
        self._grow(max(map(len, ids)))
        rows = self._pages[slot, layer]
        rows[:] = 0
        for row, own in zip(rows, ids, strict=True):
            row[: len(own)] = own
        self.lengths[slot, layer] = lengths
        self._follow((slot, layer), rows)

    def clear(self, slot: int) -> None:
        """Empty every list of a sequence; the device needs no word of it, as nothing reads beyond a list's length."""
        self.lengths[slot] = 0

    def get_list(self, slot: int, layer: int, head: int) -> np.ndarray:
        """The page ids of one list, unpadded."""
        count = -(-int(self.lengths[slot, layer, head]) // self.page_size)
        return self._pages[slot, layer, head, :count].copy()

    def extend(self, index: tuple[np.ndarray, np.ndarray, np.ndarray], ids: np.ndarray) -> None:
        """Give each list of `index` = (slots, layers, heads) one more page, behind those its length fills."""
        place = self.lengths[index] // self.page_size
        self._grow(int(place.max(initial=0)) + 1)
        self._pages[(*index, place)] = ids
        self._follow((*index, place), ids)

    def _grow(self, num_pages: int) -> None:
        width = self._pages.shape[-1]
        if num_pages > width:
            room = max(num_pages, 2 * width) - width
            self._pages = np.pad(self._pages, ((0, 0), (0, 0), (0, 0), (0, room)))
            self._copy = self._upload()

    def _follow(self, index: tuple[np.ndarray | int, ...], ids: np.ndarray) -> None:
        if self._device.type != "cpu":
            place = tuple(i if isinstance(i, int) else torch.as_tensor(i, device=self._device) for i in index)
            self._copy[place] = torch.from_numpy(ids).to(self._device)
