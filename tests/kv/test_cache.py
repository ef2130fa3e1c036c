"""The ragged cache: what is stored is read back, pages come and go, nothing moves but what should."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.errors import OutOfPages
from corm_batch.kv.cache import KVCache
from corm_batch.kv.groups import Groups
from corm_batch.kv.layers import Layers
from corm_batch.kv.layout import Layout
from corm_batch.kv.pool import PagePool
from corm_batch.ops.append import append_entries
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Column, Entries, entry_columns, kv_bytes, page_bytes, read_pages
from tests.ops.forms import FORMS, FP8, INT4, INT8, MODEL, decoded, encoded

CPU = torch.device("cpu")
OWN = (Column("norm"), Column("level", torch.int32))


def make(num_pages=50, page_size=4, slots=3, layers=2, heads=3, agree=int, form=MODEL, groups=None):
    columns, known = entry_columns(form, 8, torch.float32, OWN), Layers(layers, groups=groups)
    layout = Layout([columns] * layers, page_size, len(form.scales), known.num_members)
    return KVCache(slots, known, heads, num_pages, layout, form, CPU, agree)


def random_entries(*lead):
    return Entries(
        *(torch.randn(*lead, 8) for _ in range(2)),
        *(torch.randint(1, 99, lead, dtype=torch.int32) for _ in range(2)),
        torch.rand(lead),
        (torch.randn(lead), torch.randint(-99, 99, lead, dtype=torch.int32)),
    )


def store(cache, slot, layers, pages=50):
    """Make `layers`, one (entries, keep) each, what the sequence holds, as a forward pass does."""
    stage = cache.stage([slot], pages)
    for layer, (entries, keep) in enumerate(layers):
        cache.store(stage, [slot], layer, entries, keep)
    cache.commit(stage)


def assert_holds(cache, slot, layer, entries, keep):
    read, entries = cache.read(slot, layer), decoded(encoded(entries, cache.form), cache.form)
    for head in range(keep.shape[0]):
        count = int(keep[head].sum())
        for got, want in zip(read.tensors, entries.tensors, strict=True):
            assert torch.equal(got[head, :count], want[head, keep[head]])
        assert (read.position[head, count:] == NEVER).all()


def random_layers(count, num_entries, share=0.6, heads=3):
    return [(random_entries(heads, num_entries), torch.rand(heads, num_entries) < share) for _ in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_ragged_heads_are_stored_and_replaced(form):
    cache = make(form=form)
    slot, other = cache.open(), cache.open()
    untouched = random_layers(2, 9)
    store(cache, other, untouched)
    for lengths in ([13, 0, 5], [2, 4, 1], [16, 16, 16], [0, 0, 0]):
        keep = torch.zeros(3, 16, dtype=torch.bool)
        for head, length in enumerate(lengths):
            keep[head, torch.randperm(16)[:length]] = True
        layers = [(random_entries(3, 16), keep), (random_entries(3, 16), keep.flip(0))]
        store(cache, slot, layers)
        for layer, (entries, kept) in enumerate(layers):
            assert_holds(cache, slot, layer, entries, kept)
            assert_holds(cache, other, layer, *untouched[layer])
        assert cache.pages_held(slot) == 2 * sum(-(-length // 4) for length in lengths)
        assert cache.pages_held(slot) + cache.pages_held(other) + cache.pool.num_free == cache.pool.num_pages
    assert cache.peak_pages[slot] == 24


@pytest.mark.parametrize("form", FORMS)
def test_append_lands_behind_what_is_stored(form):
    cache = make(form=form)
    slots = np.array([cache.open(), cache.open()])
    kept = torch.tensor([[True] * 4, [True] * 3 + [False], [False] * 4])
    first = [[(random_entries(3, 4), kept) for _ in range(2)] for _ in slots]
    for slot, layers in zip(slots, first, strict=True):
        store(cache, int(slot), layers)
    assert cache.missing_pages(slots) == 2 * 2 * 2  # the full page and the empty list of each layer
    free = cache.pool.num_free
    cache.reserve(slots)
    assert free - cache.pool.num_free == 8
    news = [random_entries(2, 3) for _ in range(2)]
    for layer, new in enumerate(news):
        append_entries(cache.pages(layer), cache.lists(layer, torch.from_numpy(slots)), new, form=form)
    cache.advance(slots)
    for layer, new in enumerate(news):
        for i, slot in enumerate(slots):
            both = Entries.of(
                torch.cat((a, b[i].unsqueeze(1)), dim=1)
                for a, b in zip(first[i][layer][0].tensors, new.tensors, strict=True)
            )
            assert_holds(cache, int(slot), layer, both, torch.cat((kept, torch.ones(3, 1, dtype=torch.bool)), dim=1))


def test_pages_that_a_compaction_empties_are_free():
    cache = make()
    slot = cache.open()
    layers = random_layers(2, 11, share=2.0)
    store(cache, slot, layers)
    cache.reserve(np.array([slot]), num_entries=7)
    cache.lists(0, torch.tensor([slot])).length[slot] = torch.tensor([1, 0, 8])
    cache.settle(np.array([slot]))
    assert cache.table.lengths[slot].tolist() == [[1, 0, 8], [11, 11, 11]]
    assert cache.pages_held(slot) == 1 + 0 + 2 + 3 * 3
    assert cache.pages_held(slot) + cache.pool.num_free == cache.pool.num_pages


def test_a_pass_that_lacks_pages_anywhere_is_booked_nowhere():
    """A cache of other heads is three pages short."""
    cache = make(agree=lambda number: min(number, -3))
    slot = cache.open()
    assert cache.spare(0) == -3
    with pytest.raises(OutOfPages) as caught:
        store(cache, slot, random_layers(2, 6))
    assert caught.value.num_missing == 3
    assert (cache.pages_held(slot), cache.pool.num_free) == (0, 50)


def test_a_dry_pool_changes_nothing():
    cache = make(num_pages=5, layers=1)
    slot = cache.open()
    entries, keep = random_entries(3, 6), torch.ones(3, 6, dtype=torch.bool)
    with pytest.raises(OutOfPages) as caught:
        store(cache, slot, [(entries, keep)])
    assert caught.value.num_missing == 1
    assert cache.pool.num_free == 5
    kept = torch.arange(6).expand(3, -1) < 4
    store(cache, slot, [(entries, kept)])
    with pytest.raises(OutOfPages):
        cache.reserve(np.array([slot]))
    assert_holds(cache, slot, 0, entries, kept)
    assert cache.pool.num_free == 2


def test_a_stage_that_is_not_used_is_free_again():
    cache = make()
    slot = cache.open()
    stage = cache.stage([slot], 30)
    assert cache.pool.num_free == 20
    cache.store(stage, [slot], 0, random_entries(3, 6), torch.ones(3, 6, dtype=torch.bool))
    cache.discard(stage)
    assert cache.pool.num_free == 50
    cache.commit(cache.stage([], 99))
    assert cache.pool.num_free == 50


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_comes_back_from_host_memory_as_it_was(form):
    cache = make(form=form)
    slot = cache.open()
    layers = random_layers(2, 11)
    store(cache, slot, layers)
    held = cache.pages_held(slot)
    cache.reserve(np.array([slot]), num_entries=9)
    swapped = cache.swap_out(slot)
    assert cache.pool.num_free == cache.pool.num_pages
    store(cache, cache.open(), random_layers(2, 11))
    back = cache.swap_in(swapped)
    assert cache.pages_held(back) == held
    ids = torch.from_numpy(cache.table.get_lists(back)).long()
    assert torch.equal(cache.pool.words[ids], swapped.pages)
    for layer, (entries, keep) in enumerate(layers):
        assert_holds(cache, back, layer, entries, keep)


def test_a_device_without_memory_costs_no_pages(monkeypatch):
    cache = make(layers=1)
    slot = cache.open()
    entries, keep = random_entries(3, 6), torch.ones(3, 6, dtype=torch.bool)
    store(cache, slot, [(entries, keep)])
    swapped = cache.swap_out(slot)
    back, other = cache.swap_in(swapped), cache.open()
    stage = cache.stage([other], 40)
    cache.store(stage, [other], 0, random_entries(3, 50), torch.ones(3, 50, dtype=torch.bool))
    free = cache.pool.num_free

    def full(array, copy=False):
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(cache.table, "_upload", full)
    for call in (
        lambda: cache.commit(stage),
        lambda: cache.reserve(np.array([back]), 50),
        lambda: cache.swap_in(type(swapped)(swapped.pages, swapped.lengths * 20)),
    ):
        with pytest.raises(torch.OutOfMemoryError):
            call()
        assert (cache.pool.num_free, cache.num_free_slots) == (free, 1)
        assert_holds(cache, back, 0, entries, keep)
    cache.discard(stage)
    assert cache.pages_held(back) + cache.pool.num_free == cache.pool.num_pages


@pytest.mark.parametrize("form", FORMS)
def test_pages_are_handed_out_once_and_their_values_are_clean(form):
    columns = entry_columns(form, 8, torch.float32)
    pool = PagePool(6, Layout([columns], 4, len(form.scales)), CPU)
    first = pool.allocate(6)
    assert sorted(first) == [1, 2, 3, 4, 5, 6]
    pool.words.view(torch.uint8).fill_(0x7F)  # no number
    pool.release(first[:2])
    again = pool.allocate(2)
    assert sorted(again) == sorted(first[:2])
    assert pool.layers[0].value[torch.from_numpy(again).long()].float().abs().max() == 0
    with pytest.raises(OutOfPages):
        pool.allocate(1)


@pytest.mark.parametrize(
    ("dtype", "form", "num_bytes"),
    [
        (torch.float32, MODEL, 64),
        (torch.bfloat16, MODEL, 32),
        *((dtype, form, 24) for dtype in (torch.bfloat16, torch.float32) for form in (FP8, INT8, INT4)),
    ],
)
def test_page_bytes_are_those_of_its_tensors(dtype, form, num_bytes):
    columns = entry_columns(form, 8, dtype, OWN)
    pool = PagePool(3, Layout([columns], 4, len(form.scales)), CPU)
    assert pool.page_bytes == page_bytes(4, columns) == sum(column[0].nbytes for column in pool.layers[0].tensors)
    assert pool.page_bytes == pool.words[0].nbytes == 4 * (num_bytes + 12 + 2 * 4)
    assert kv_bytes(8, dtype) == 2 * 8 * dtype.itemsize
    assert pool.layout.own_columns == OWN


def columns_of(entries, *heads_and_counts):
    """The first so many entries of some heads, all columns."""
    return [[column[head, :count].clone() for column in entries.tensors] for head, count in heads_and_counts]


def assert_same_columns(found, expected):
    assert all(
        torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
    )


def read_own(cache, slot, layer, born):
    """A sequence's own entries, with new ones behind them."""
    ends, num_born = cache.ends([slot]), born.position.shape[1]
    (width,) = ends.widths[layer].tolist()
    return cache.read_ends(ends, layer, born, tuple(Packing.alone(n, CPU) for n in (num_born, width + num_born)))


@pytest.mark.parametrize("form", FORMS)
def test_what_begins_with_another_sequence_shares_its_whole_pages_and_writes_none_of_them(form):
    """Three heads of 9, 4 and 0 entries in pages of 4: two pages and one are shared, the ninth entry is copied."""
    cache = make(form=form)
    reading = cache.open()
    keep = torch.arange(9) < torch.tensor([9, 4, 0])[:, None]
    store(cache, reading, [(random_entries(3, 9), keep)] * 2)
    held, free = cache.pages_held(reading), cache.pool.num_free
    before = [columns_of(cache.read(reading, layer), (0, 9), (1, 4)) for layer in range(2)]
    forks = [cache.fork(reading) for _ in range(2)]
    assert (cache.pool.num_free, [cache.pages_held(fork) for fork in forks]) == (free, [0, 0])  # nothing is taken yet
    for fork, num_born in zip(forks, (3, 6), strict=True):
        stage = cache.stage([fork], 50)
        for layer in range(2):
            born = random_entries(3, num_born)
            own = read_own(cache, fork, layer, born)
            assert own.position.shape == (3, 4 + num_born)
            assert (own.position[:, :4] == NEVER).tolist() == [[False] + [True] * 3, [True] * 4, [True] * 4]
            cache.store(stage, [fork], layer, own, own.position != NEVER)
        cache.commit(stage)
        read = cache.read(fork, 1)
        assert cache.table.lengths[fork].tolist() == [[9 + num_born, 4 + num_born, num_born]] * 2
        assert_same_columns(columns_of(read, (0, 9), (1, 4)), before[1])
        for head, count in enumerate((9, 4, 0)):
            own = decoded(encoded(born, form), form)
            for got, want in zip(read.tensors, own.tensors, strict=True):
                assert torch.equal(got[head, count : count + num_born], want[head])
    assert [cache.pages_held(fork) for fork in forks] == [2 * (1 + 1 + 1), 2 * (2 + 2 + 2)]
    assert held + 6 + 12 + cache.pool.num_free == cache.pool.num_pages
    cache.reserve(np.array(forks), 5)
    table, length = cache.table.own_lists(0, np.array(forks), torch.tensor(forks))
    assert length.tolist() == [[4, 3, 3], [7, 6, 6]]
    shared = set(cache.table.get_lists(reading)[: held // 2].tolist())
    assert not shared & set(table.flatten().tolist())
    swapped = cache.swap_out(forks[0])
    assert swapped.num_pages == 6
    back = cache.swap_in(swapped, reading)
    assert_same_columns(columns_of(cache.read(back, 1), (0, 9), (1, 4)), before[1])
    cache.close(reading)  # its whole pages stay as long as somebody reads them
    assert_same_columns(columns_of(cache.read(back, 0), (0, 9), (1, 4)), before[0])
    for fork in (back, forks[1]):
        cache.close(fork)
    assert (cache.pool.num_free, cache.num_free_slots) == (cache.pool.num_pages, 3)
    fresh = cache.open()
    assert not cache.lists(0, torch.tensor([fresh])).shared.any()


def test_a_first_pass_that_fails_leaves_what_is_shared_as_it_was():
    cache = make(num_pages=8, layers=1)
    reading = cache.open()
    store(cache, reading, [(random_entries(3, 6), torch.ones(3, 6, dtype=torch.bool))])
    before, fork = columns_of(cache.read(reading, 0), (0, 6), (2, 6)), cache.fork(reading)
    born = random_entries(3, 2)
    for _ in range(2):
        own = read_own(cache, fork, 0, born)
        with pytest.raises(OutOfPages) as caught:
            store(cache, fork, [(own, own.position != NEVER)])
        assert caught.value.num_missing == 1
        assert cache.pool.num_free == 2
    assert_same_columns(columns_of(cache.read(fork, 0), (0, 6), (2, 6)), before)
    cache.close(fork)
    cache.close(reading)
    assert cache.pool.num_free == 8


@pytest.mark.parametrize("form", FORMS)
def test_members_values_lie_where_their_owners_keys_do_whatever_comes_first(form):
    """Through storing in any order of layers, compaction, host memory and another reading on top."""
    cache = make(form=form, groups=Groups(((0, 1, 2),), 1, 4), layers=3)
    slot, (entries, keep), others = cache.open(), random_layers(1, 13)[0], random_layers(2, 6)
    entries = entries._replace(position=torch.arange(1, 14).int().expand(3, -1))
    values = [torch.randn(3, 13, 8) for _ in range(2)]
    stage = cache.stage([slot], 50)
    for layer, (own, kept) in enumerate(others, 1):  # members are done first
        cache.store(stage, [slot], layer, own, kept)
    cache.store(stage, [slot], 0, entries, keep, None, values)
    cache.commit(stage)

    def holds(slot, keep):
        for number, value in enumerate((entries.value, *values)):
            table, length = cache.table.row(slot, 0)
            read = read_pages(cache.pages(0, number), table, length, form)
            want = decoded(encoded(entries._replace(value=value), form), form)
            for head in range(3):
                count = int(keep[head].sum())
                assert torch.equal(read.key[head, :count], want.key[head, keep[head]].float())
                assert torch.equal(read.value[head, :count], want.value[head, keep[head]].float())

    holds(slot, keep)
    for layer, (own, kept) in enumerate(others, 1):
        assert_holds(cache, slot, layer, own, kept)
    step = 9
    slot = cache.swap_in(cache.swap_out(slot))
    lists = cache.table.lists_of(slice(0, 1), torch.tensor([slot]))
    cache.ops.compact_lists(cache.pool.layers[0], lists, torch.tensor([step], dtype=torch.int32))
    keep &= (entries.position <= step) & (entries.expiry > step)
    cache.settle(np.array([slot]))
    holds(slot, keep)
