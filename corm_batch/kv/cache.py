"""KVCache: entries in pages, ragged per (sequence, layer, kv head). Pages let go are free for anyone at once.

Knows nothing of why an entry stays or goes, of models or of schedules. A forward pass never asks the host which pages
to take: it gets a stage of free ones beforehand, and what it took is booked afterwards.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from corm_batch.errors import OutOfPages
from corm_batch.kv.channels import Channels
from corm_batch.kv.layers import Layers
from corm_batch.kv.layout import Layout, valued
from corm_batch.kv.page_table import PageTable
from corm_batch.kv.pool import PagePool
from corm_batch.kv.stage import Ends, Stage, SwappedCache
from corm_batch.ops.basis import Basis
from corm_batch.ops.form import Form
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries, Lists, Pages, projected, read_pages
from corm_batch.ops.select import Ops, select_ops


class KVCache:
    """The page pool and the page table of one replica.

    Args:
        num_slots: sequences that can hold pages at one time.
        layers: of the model; below, a layer is one that has lists, by its row.
        num_kv_heads, num_pages: sizes.
        layout: what stands in pages, by such layers.
        form: in which keys and values are stored.
        device: where.
        agree: the least of a number over all caches that hold heads of the same sequences; the number itself where this
            one holds them all.
        bases: by layer, the directions in which the form has keys and values stored; None: in all.
    """

    def __init__(
        self, num_slots: int, layers: Layers, num_kv_heads: int, num_pages: int, layout: Layout, form: Form,
        device: torch.device, agree: Callable[[int], int] = int, bases: Sequence[Basis] | None = None,
    ) -> None:  # fmt: skip
        self.device, self.agree, self.form, self.layers = device, agree, form, layers
        self.bases: Sequence[Basis | None] = layers.own(bases) if bases else [None] * len(layers.owners)
        self.ops: Ops = select_ops(device, form)
        self.pool, self.layout = PagePool(num_pages, layout, device), layout
        self._pages = [[valued(pages, n) for n in range(1 + len(pages.further))] for pages in self.pool.layers]
        self.table = PageTable(num_slots, layout, num_kv_heads, device)
        self.peak_pages = np.zeros(num_slots, dtype=np.int64)
        self.channels = Channels(num_slots, len(layers.owners), num_kv_heads, layout.columns[0], form, device)
        self.head_dim = layout.columns[0][1].width or 0
        self._free_slots = list(range(num_slots))  # a heap: low slots first, as the table grows with the highest

    @property
    def num_lists(self) -> int:
        """Lists of pages a sequence has: layers times kv heads."""
        return int(self.table.lengths[0].size)

    @property
    def num_free_slots(self) -> int:
        """Sequences that can still be opened."""
        return len(self._free_slots)

    def most_pages(self, num_entries: float, more: int = 0) -> int:
        """As `Layout.most_pages`, in the heads that are here."""
        return self.layout.most_pages(num_entries, self.table.lengths.shape[2], more)

    def spare(self, num_pages: int) -> int:
        """Free pages beyond `num_pages`, where there are fewest; below 0 when these do not fit."""
        return self.agree(self.pool.num_free - num_pages)

    def open(self) -> int:
        """A slot for a new sequence, empty."""
        self.table.grow(self._free_slots[0] + 1, 0)
        slot = heapq.heappop(self._free_slots)
        self.peak_pages[slot] = 0
        return slot

    def fork(self, source: int) -> int:
        """A slot for a new sequence that begins with all that another one holds and never changes any of it.

        Takes no pages: the first `store` of the sequence copies what stands in pages that are not full.
        """
        slot = self.open()
        self.table.fork(slot, source)
        self.channels.fork(slot, source)
        self.pool.share(self.table.get_lists(slot))
        return slot

    def close(self, slot: int) -> None:
        """Let go of every page of a sequence, and of its slot."""
        self.pool.release(self.table.get_lists(slot))
        self.table.clear(slot)
        heapq.heappush(self._free_slots, slot)

    def pages_held(self, slot: int) -> int:
        """Pages the sequence has now, without those it shares with the one it begins with."""
        return int(self.table.num_own(slot))

    def pages(self, layer: int, member: int = 0) -> Pages:
        """The columns of a layer's pages; with the values of so manyth of the layers that have their keys there."""
        return self._pages[layer][member]

    def lists(self, layer: int, slot_S: Tensor) -> Lists:
        """One layer's lists of the sequences in `slot_S`, as kernels read them."""
        lists = self.table.lists(layer, slot_S)
        return lists._replace(channels=self.channels.of(layer, slice(None)), basis=self.bases[layer])

    def read(self, slot: int, layer: int) -> Entries:
        """All entries of one layer, copied out: [K, N], padded to the longest head."""
        lists, channels = self.table.row(slot, layer), self.channels.of(layer, slot)
        return read_pages(self.pages(layer), *lists, self.form, channels, self.head_dim, self.bases[layer])

    def ends(self, slots: Sequence[int], most_before: int | None = 0) -> Ends:
        """What the lists of sequences hold behind the pages that they share, and in so many of these; None for all.

        Asked for once for all layers of a pass: a copy to the device in every layer would have it wait.
        """
        places = np.array(slots, np.int64)
        table, lengths, others = self.table.ends(places, most_before)
        size = self.layout.sizes
        widths = -(-lengths.max(axis=2, initial=0) // size) * size
        uploaded = [torch.from_numpy(array).to(self.device) for array in (table, lengths, others, places)]
        return Ends(uploaded[0], uploaded[1], uploaded[2], widths, uploaded[3])

    def read_ends(
        self, ends: Ends, layer: int, born: Entries, packing: tuple[Packing, Packing], member: int = 0
    ) -> Entries:
        """What `ends` found in a layer with new entries, [K, M], behind them; `packing`: as `gather_entries` has it,
        `member`: whose values these are, see `pages`."""
        newer, every = packing
        num_pages = -(-int((every.sizes - newer.sizes).max(initial=0)) // self.layout.by_layer[layer])
        lists, channels = (ends.table[layer, ..., :num_pages], ends.length[layer]), self.channels.of(layer, ends.slot)
        pages, basis = self.pages(layer, member), self.bases[layer]
        return self.ops.gather_entries(pages, *lists, born, packing, channels, basis=basis)

    def write_own(self, ends: Ends, layer: int, owner_A: Tensor, place_A: Tensor, own: Sequence[Tensor]) -> None:
        """Change policies' own columns of some entries in place, in every head of a layer.

        Args:
            ends: of lists that share no pages, as `ends` finds them.
            layer: of them.
            owner_A, place_A: int64, whose each entry is, by its place among the sequences of `ends`, and where it
                stands in the lists.
            own: [K, A] each.
        """
        size = self.layout.by_layer[layer]
        page_KA = ends.table[layer][owner_A, :, place_A // size].long().T
        for column, new in zip(self.pages(layer).own, own, strict=True):
            column.index_put_((page_KA, place_A % size), new)

    def stage(self, slots: Iterable[int], num_pages: int) -> Stage:
        """Put up to `num_pages` free pages at the disposal of a forward pass over the sequences in `slots`; `commit` or
        `discard` ends it.

        What the pass needs of the host comes to the device here: a copy in every layer would have it wait.
        """
        places = list(slots)
        own = [list(layer) for layer in zip(*(self.table.get_layers(slot) for slot in places), strict=True)]
        known = Stage.of(places, own, min(num_pages, self.pool.num_free), self.device)
        ids = self.pool.take(len(known.fresh))  # last: a device without memory must not cost pages
        known.fresh.copy_(torch.from_numpy(ids))
        return replace(known, ids=ids)

    def store(
        self,
        stage: Stage,
        slots: Sequence[int],
        layer: int,
        entries: Entries,
        keep: Tensor,
        packing: Packing | None = None,
        values: Sequence[Tensor] = (),
    ) -> Tensor:
        """Make the kept entries, in their order, all that sequences hold in one layer behind the pages that they share,
        once the stage is committed.

        Args:
            stage: where pages come from beyond those the layer holds already.
            slots: whose these are, neighbours among the stage's own.
            layer: of them.
            entries: [K, N].
            keep: [K, N] bool.
            packing: where each sequence's stand; None where all are of one.
            values: of the members that have their keys there, [K, N, D] each, in their order.

        Returns:
            The statistic of the entries not kept, summed up, [S, K].
        """
        first = stage.slots.index(slots[0])
        where = packing or Packing.alone(keep.shape[1], self.device)
        held = stage.held, stage.held_stops[layer, first : first + len(slots) + 1], stage.fresh
        channels = self.channels.of(layer, stage.slot[first : first + len(slots)])
        for member, value in enumerate(values, 1):  # each writes all of an entry, to the same place
            pages, theirs = self.pages(layer, member), entries._replace(value=value)
            self.ops.store_entries(pages, theirs, keep, where, *held, stage.used.clone(), channels)
        counts, lost = self.ops.store_entries(
            self.pages(layer), projected(entries, self.bases[layer]), keep, where, *held, stage.used, channels
        )
        stage.stored.append((layer, first, counts))
        return lost

    def commit(self, stage: Stage) -> None:
        """Book what a forward pass stored: every layer of its sequences. Waits for the device.

        Raises:
            OutOfPages: there were too few; the stage's pages are free again, and what its sequences held before is
                lost.
            torch.OutOfMemoryError: nothing is booked; the stage is still to be discarded.
        """
        found = torch.cat([stage.used, *(counts.flatten() for *_, counts in stage.stored)]).cpu().numpy()
        missing = -self.agree(len(stage.ids) - int(found[0]))
        if missing > 0:
            self.discard(stage)
            raise OutOfPages(missing)
        counts = found[1:].reshape(-1, self.table.lengths.shape[-1])
        size = self.layout.sizes
        if not isinstance(size, int):
            size = size[[layer for layer, _, stored in stage.stored for _ in range(len(stored))]]
        num_pages = -(-counts // size)
        shared = self.table.num_shared(np.array(stage.slots, np.int64))
        self.table.grow(0, int(num_pages.max(initial=0)) + int(shared.max(initial=0)))
        ids, lengths, surplus = stage.taken(counts, num_pages.sum(axis=1))
        self.pool.release(surplus)
        for place, pages in ids.items():
            slot = stage.slots[place]
            before = shared[place] * self.layout.sizes
            self.table.set_lists(slot, np.concatenate(pages), before + np.stack(lengths[place]))
            self._book(slot)

    def discard(self, stage: Stage) -> None:
        """Take a stage's pages back, whatever was written to them."""
        self.pool.release(stage.ids)

    def missing_pages(self, slots: np.ndarray, num_entries: int = 1) -> int:
        """Pages that `num_entries` more in every head of `slots` take."""
        return int(self.table.missing(slots, num_entries).sum())

    def reserve(self, slots: np.ndarray, num_entries: int = 1) -> None:
        """Give every list of `slots` the pages for its next `num_entries` entries.

        Raises:
            OutOfPages: nothing has changed.
        """
        missing = self.table.missing(slots, num_entries)
        self.table.grow(0, int((self.table.num_pages[slots] + missing).max(initial=0)))
        self.table.extend(slots, missing, self.pool.allocate(int(missing.sum())))
        self._book(slots[missing.any(axis=(1, 2))])

    def advance(self, slots: np.ndarray, num_entries: int = 1) -> None:
        """Count the entries that kernels have appended to every list of `slots`."""
        self.table.lengths[slots] += num_entries

    def settle(self, slots: np.ndarray) -> None:
        """Book a compaction of `slots`: what the device left is what they hold. Waits for the device."""
        self.table.lengths[slots] = self.table.read_lengths(slots)
        self.pool.release(self.table.trim(slots))

    def swap_out(self, slot: int) -> SwappedCache:
        """Move what is a sequence's own to host memory, letting go of its pages and its slot."""
        self.pool.release(self.table.trim(np.array([slot])))
        ids = torch.from_numpy(self.table.get_own(slot)).to(self.device)
        swapped = SwappedCache(
            self.pool.words.index_select(0, ids).cpu(), self.table.lengths[slot].copy(), self.channels.save(slot)
        )
        self.close(slot)
        return swapped

    def swap_in(self, swapped: SwappedCache, source: int | None = None) -> int:
        """Bring a sequence back, entry for entry.

        Args:
            swapped: what was its own.
            source: the slot of the sequence it begins with, where it shares any.

        Returns:
            Its new slot.

        Raises:
            OutOfPages: nothing has changed.
        """
        self.table.grow(self._free_slots[0] + 1, int((-(-swapped.lengths // self.layout.sizes)).max()))
        ids = self.pool.take(swapped.num_pages)
        slot = self.open() if source is None else self.fork(source)
        self.table.set_lists(slot, ids, swapped.lengths)
        self.channels.restore(slot, swapped.channels)
        index = torch.from_numpy(ids).to(self.device)
        self.pool.words.index_copy_(0, index.long(), swapped.pages.to(self.device))
        self._book(slot)
        return slot

    def _book(self, slots: np.ndarray | int) -> None:
        self.peak_pages[slots] = np.maximum(self.peak_pages[slots], self.table.num_own(slots))
