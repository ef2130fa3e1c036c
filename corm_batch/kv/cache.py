"""KVCache: entries in pages, ragged per (sequence, layer, kv head). Pages let go are free for anyone at once.

Knows nothing of why an entry stays or goes, of models or of schedules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corm_batch.kv.page_table import PageTable
from corm_batch.kv.pool import PagePool
from corm_batch.ops.pages import Entries, Pages, read_pages, write_pages


@dataclass(frozen=True)
class SwappedCache:
    """One sequence's entries in host memory, and where they belong."""

    pages: Pages  # [its pages, C, ...] on the host, lists one behind the other
    lengths: np.ndarray  # [L, K]


class KVCache:
    """The page pool and the page table of one replica.

    Args:
        num_slots: sequences that can hold pages at one time.
        num_layers, num_kv_heads, head_dim, page_size, num_pages: sizes.
        dtype, device: of keys and values.
    """

    def __init__(
        self,
        num_slots: int,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        num_pages: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.device = device
        self.pool = PagePool(num_pages, page_size, head_dim, dtype, device)
        self.table = PageTable(num_slots, num_layers, num_kv_heads, page_size, device)
        self.peak_pages = np.zeros(num_slots, dtype=np.int64)
        self._free_slots = list(range(num_slots - 1, -1, -1))

    @property
    def num_lists(self) -> int:
        """Lists of pages a sequence has: layers times kv heads."""
        return int(self.table.lengths[0].size)

    @property
    def num_free_slots(self) -> int:
        """Sequences that can still be opened."""
        return len(self._free_slots)

    def open(self) -> int:
        """A slot for a new sequence, empty."""
        slot = self._free_slots.pop()
        self.peak_pages[slot] = 0
        return slot

    def close(self, slot: int) -> None:
        """Free every page of a sequence, and its slot."""
        self.pool.release(self._ids(slot))
        self.table.clear(slot)
        self._free_slots.append(slot)

    def pages_held(self, slot: int) -> int:
        """Pages the sequence has now."""
        return int(self.table.num_pages(slot).sum())

    def read(self, slot: int, layer: int) -> Entries:
        """All entries of one layer, copied out: [K, N], padded to the longest head."""
        length = torch.from_numpy(self.table.lengths[slot, layer])
        width = int(self.table.num_pages(slot)[layer].max())
        table = self.table.lists(torch.tensor(slot, device=self.device), layer, width)
        return read_pages(self.pool.pages, table, length.to(self.device))

    def store(self, slot: int, layer: int, entries: Entries, keep: Tensor) -> None:
        """Make the kept entries, in their order, all that the sequence holds in one layer.

        Args:
            slot, layer: where.
            entries: [K, N].
            keep: [K, N] bool.

        Raises:
            OutOfPages: the pool is dry; what the sequence held before is untouched.
        """
        counts = keep.sum(dim=-1).cpu().numpy()
        held = [self.table.get_list(slot, layer, head) for head in range(len(counts))]
        want = -(-counts // self.pool.page_size)
        fresh = self.pool.allocate(sum(max(0, int(n) - len(ids)) for n, ids in zip(want, held, strict=True)))
        lists = []
        for ids, count in zip(held, want, strict=True):
            missing = max(0, int(count) - len(ids))
            self.pool.release(ids[count:])
            lists.append(np.concatenate((ids[:count], fresh[:missing])))
            fresh = fresh[missing:]
        self.table.set_lists(slot, layer, lists, counts)
        self._book(slot)
        heads, index = keep.nonzero(as_tuple=True)
        rank = (keep.cumsum(dim=-1) - 1)[heads, index]
        table = self.table.lists(torch.tensor(slot, device=self.device), layer, int(want.max(initial=0)))
        page = table[heads, rank // self.pool.page_size]
        kept = Entries(*(column[heads, index] for column in entries))
        write_pages(self.pool.pages, page, rank % self.pool.page_size, kept)

    def missing_pages(self, slots: np.ndarray) -> int:
        """Pages that one more entry in every head of `slots` takes."""
        return int((self.table.lengths[slots] % self.pool.page_size == 0).sum())

    def reserve(self, slots: np.ndarray) -> None:
        """Lengthen every list of `slots` by one entry, still to be written by `append`.

        Raises:
            OutOfPages: nothing has changed.
        """
        where, layers, heads = np.nonzero(self.table.lengths[slots] % self.pool.page_size == 0)
        index = slots[where], layers, heads
        self.table.extend(index, self.pool.allocate(len(where)))
        self.table.lengths[slots] += 1
        for slot in np.unique(index[0]):
            self._book(int(slot))

    def append(self, slots: np.ndarray, layer: int, entries: Entries) -> None:
        """Write the reserved last entry of each sequence in one layer: `entries` is [S, K]."""
        page = torch.from_numpy(self.table.page_of(slots, layer)).to(self.device)
        place = torch.from_numpy((self.table.lengths[slots, layer] - 1) % self.pool.page_size).to(self.device)
        flat = Entries(*(column.flatten(0, 1) for column in entries))
        write_pages(self.pool.pages, page.flatten(), place.flatten(), flat)

    def swap_out(self, slot: int) -> SwappedCache:
        """Move a sequence to host memory, freeing its pages and its slot."""
        ids = torch.from_numpy(self._ids(slot)).to(self.device)
        swapped = SwappedCache(
            Pages(*(column.index_select(0, ids).cpu() for column in self.pool.pages)), self.table.lengths[slot].copy()
        )
        self.close(slot)
        return swapped

    def swap_in(self, swapped: SwappedCache) -> int:
        """Bring a sequence back, entry for entry.

        Returns:
            Its new slot.

        Raises:
            OutOfPages: nothing has changed.
        """
        ids = self.pool.allocate(len(swapped.pages.position))
        slot = self.open()
        counts = -(-swapped.lengths // self.pool.page_size)
        lists = np.split(ids, np.cumsum(counts)[:-1])
        for layer, lengths in enumerate(swapped.lengths):
            heads = len(lengths)
            self.table.set_lists(slot, layer, lists[layer * heads : (layer + 1) * heads], lengths)
        index = torch.from_numpy(ids).to(self.device)
        for column, saved in zip(self.pool.pages, swapped.pages, strict=True):
            column.index_copy_(0, index, saved.to(self.device))
        self._book(slot)
        return slot

    def _ids(self, slot: int) -> np.ndarray:
        """Every page of a sequence, lists one behind the other."""
        return np.concatenate([self.table.get_list(slot, *place) for place in np.ndindex(self.table.lengths.shape[1:])])

    def _book(self, slot: int) -> None:
        self.peak_pages[slot] = max(self.peak_pages[slot], self.pages_held(slot))
