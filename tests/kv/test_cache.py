"""The ragged cache: what is stored is read back, pages come and go, nothing moves but what should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.kv.cache import KVCache
from corm_batch.kv.pool import OutOfPages, PagePool, page_bytes
from corm_batch.ops.pages import NEVER, Entries


def make(num_pages=50, page_size=4, slots=3, layers=2, heads=3):
    return KVCache(slots, layers, heads, 8, page_size, num_pages, torch.float32, torch.device("cpu"))


def random_entries(*lead):
    return Entries(
        *(torch.randn(*lead, 8) for _ in range(2)),
        *(torch.randint(1, 99, lead, dtype=torch.int32) for _ in range(2)),
        torch.rand(lead),
    )


def assert_holds(cache, slot, layer, entries, keep):
    read = cache.read(slot, layer)
    for head in range(keep.shape[0]):
        count = int(keep[head].sum())
        for got, want in zip(read, entries, strict=True):
            assert torch.equal(got[head, :count], want[head, keep[head]])
        assert (read.position[head, count:] == NEVER).all()


def test_ragged_heads_are_stored_and_replaced():
    cache = make()
    slot, other = cache.open(), cache.open()
    untouched, everything = random_entries(3, 9), torch.ones(3, 9, dtype=torch.bool)
    cache.store(other, 1, untouched, everything)
    for lengths in ([13, 0, 5], [2, 4, 1], [16, 16, 16], [0, 0, 0]):
        entries = random_entries(3, 16)
        keep = torch.zeros(3, 16, dtype=torch.bool)
        for head, length in enumerate(lengths):
            keep[head, torch.randperm(16)[:length]] = True
        cache.store(slot, 1, entries, keep)
        assert_holds(cache, slot, 1, entries, keep)
        assert cache.pages_held(slot) == sum(-(-length // 4) for length in lengths)
        assert_holds(cache, other, 1, untouched, everything)
    assert cache.peak_pages[slot] == 12


def test_append_lands_behind_what_is_stored():
    cache = make()
    slots = np.array([cache.open(), cache.open()])
    kept = torch.tensor([[True] * 4, [True] * 3 + [False], [False] * 4])
    first = [[random_entries(3, 4) for _ in range(2)] for _ in slots]
    for slot, layers in zip(slots, first, strict=True):
        for layer, entries in enumerate(layers):
            cache.store(int(slot), layer, entries, kept)
    assert cache.missing_pages(slots) == 2 * 2 * 2  # the full page and the empty list of each layer
    free = cache.pool.num_free
    cache.reserve(slots)
    assert free - cache.pool.num_free == 8
    for layer in range(2):
        new = random_entries(2, 3)
        cache.append(slots, layer, new)
        for i, slot in enumerate(slots):
            both = Entries.join(first[i][layer], Entries(*(column[i].unsqueeze(1) for column in new)))
            assert_holds(cache, int(slot), layer, both, torch.cat((kept, torch.ones(3, 1, dtype=torch.bool)), dim=1))


def test_a_dry_pool_changes_nothing():
    cache = make(num_pages=5)
    slot = cache.open()
    entries, keep = random_entries(3, 6), torch.ones(3, 6, dtype=torch.bool)
    with pytest.raises(OutOfPages) as caught:
        cache.store(slot, 0, entries, keep)
    assert caught.value.num_missing == 1
    assert cache.pool.num_free == 5
    cache.store(slot, 0, entries, torch.arange(6).expand(3, -1) < 4)
    with pytest.raises(OutOfPages):
        cache.reserve(np.array([slot]))
    assert (cache.table.lengths[slot, 0] == 4).all()
    assert (cache.table.lengths[slot, 1] == 0).all()
    assert cache.pool.num_free == 2


def test_a_sequence_comes_back_from_host_memory_as_it_was():
    cache = make()
    slot = cache.open()
    stored = []
    for layer in range(2):
        entries, keep = random_entries(3, 11), torch.rand(3, 11) < 0.6
        cache.store(slot, layer, entries, keep)
        stored.append((entries, keep))
    held = cache.pages_held(slot)
    swapped = cache.swap_out(slot)
    assert cache.pool.num_free == cache.pool.num_pages
    intruder = cache.open()
    cache.store(intruder, 0, random_entries(3, 11), torch.ones(3, 11, dtype=torch.bool))
    back = cache.swap_in(swapped)
    assert cache.pages_held(back) == held
    for layer, (entries, keep) in enumerate(stored):
        assert_holds(cache, back, layer, entries, keep)


def test_pages_are_handed_out_once_and_their_values_are_clean():
    pool = PagePool(6, 4, 8, torch.float32, torch.device("cpu"))
    first = pool.allocate(6)
    assert sorted(first) == [1, 2, 3, 4, 5, 6]
    pool.pages.value.fill_(torch.nan)
    pool.release(first[:2])
    again = pool.allocate(2)
    assert sorted(again) == sorted(first[:2])
    assert pool.pages.value[torch.from_numpy(again)].abs().max() == 0
    with pytest.raises(OutOfPages):
        pool.allocate(1)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_page_bytes_are_those_of_its_tensors(dtype, width):
    pool = PagePool(3, 5, 8, dtype, torch.device("cpu"))
    assert pool.page_bytes == page_bytes(5, 8, dtype) == sum(column[0].nbytes for column in pool.pages)
    assert pool.page_bytes == 5 * (2 * 8 * width + 12)
