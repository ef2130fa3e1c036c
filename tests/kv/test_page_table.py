"""Ragged lists of pages, and the device copy that follows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.kv.layout import Layout
from corm_batch.kv.page_table import PageTable
from corm_batch.ops.pages import entry_columns
from tests.ops.forms import MODEL

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def alike(layers):
    """Pages of four entries in every layer."""
    return Layout([entry_columns(MODEL, 8, torch.float32)] * layers, 4)


def on_device(table, slot, layer, width):
    lists = table.lists(layer, torch.tensor([slot], device=table._device))
    return lists.table[slot, :, :width].tolist(), lists.length[slot].tolist()


def get_list(table, slot, layer, head):
    """The page ids of one list."""
    return np.split(table.get_layers(slot)[layer], np.cumsum(table.num_pages[slot, layer]))[head]


def lengths(*rows):
    return np.array(rows, dtype=np.int32)


@pytest.mark.parametrize("device", DEVICES)
def test_lists_of_any_length_are_replaced_and_the_longest_makes_room(device):
    table = PageTable(2, alike(2), 2, torch.device(device))
    table.set_lists(0, np.array([7, 3, 9]), lengths([5, 0], [0, 1]))
    version = table.version
    table.grow(2, 40)
    table.set_lists(1, np.arange(1, 41), lengths([0, 160], [0, 0]))  # far wider than at first
    assert table.version > version
    assert get_list(table, 0, 0, 0).tolist() == [7, 3]
    assert table.get_lists(0).tolist() == [7, 3, 9]
    assert table.get_layers(0)[1].tolist() == [9]
    assert on_device(table, 0, 0, 3) == ([[7, 3, 0], [0, 0, 0]], [5, 0])
    assert on_device(table, 1, 0, 40) == ([[0] * 40, list(range(1, 41))], [0, 160])
    table.set_lists(1, np.array([8]), lengths([0, 2], [0, 0]))
    assert on_device(table, 1, 0, 3) == ([[0, 0, 0], [8, 0, 0]], [0, 2])
    table.clear(1)
    assert table.get_lists(1).tolist() == []
    assert table.get_lists(0).tolist() == [7, 3, 9]


@pytest.mark.parametrize("device", DEVICES)
def test_lists_get_the_pages_they_lack_behind_their_own_and_lose_those_they_do_not_need(device):
    table = PageTable(3, alike(1), 2, torch.device(device))
    table.set_lists(2, np.array([5, 6]), lengths([8, 0]))
    table.set_lists(0, np.array([1, 2]), lengths([3, 4]))
    slots = np.array([2, 0])
    assert table.missing(slots, 1).tolist() == [[[1, 1]], [[0, 1]]]
    missing = table.missing(slots, 9)
    assert missing.tolist() == [[[3, 3]], [[2, 3]]]
    table.extend(slots, missing, np.arange(11, 22, dtype=np.int32))
    for slot, head, own, count in ((2, 0, [5, 6], 3), (2, 1, [], 3), (0, 0, [1], 2), (0, 1, [2], 3)):
        held = get_list(table, slot, 0, head).tolist()
        assert held[: len(own)] == own
        assert len(held) == len(own) + count
        assert on_device(table, slot, 0, len(held))[0][head] == held
    everything = sorted(np.concatenate([table.get_lists(2), table.get_lists(0)]).tolist())
    assert everything == sorted([5, 6, 1, 2, *range(11, 22)])
    assert table.missing(slots, 9).sum() == 0
    kept = [get_list(table, 2, 0, 0)[:3], get_list(table, 0, 0, 1)[:1]]
    table.set_lengths(slots, lengths([9, 0], [0, 2]).reshape(2, 1, 2))
    assert on_device(table, 2, 0, 1)[1] == [9, 0]
    freed = table.trim(slots).tolist()
    assert sorted(freed + [int(page) for ids in kept for page in ids]) == everything
    assert table.get_lists(2).tolist() == kept[0].tolist()
    assert table.get_lists(0).tolist() == kept[1].tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_counts_by_itself_until_it_is_asked(device):
    table = PageTable(3, alike(2), 2, torch.device(device))
    table.set_lists(1, np.array([5, 6]), lengths([4, 0], [0, 3]))
    table.lists(1, torch.tensor([1], device=device)).length[1] += 2
    assert table.lengths[1].tolist() == [[4, 0], [0, 3]]
    assert table.read_lengths(np.array([1, 0])).tolist() == [[[4, 0], [2, 5]], [[0, 0], [0, 0]]]


def test_there_is_room_for_as_many_slots_as_were_ever_open():
    table = PageTable(100, alike(1), 1, torch.device("cpu"))
    table.set_lists(0, np.array([5]), lengths([2]))
    small, version = table._pages.nbytes, table.version
    table.grow(8, 8)
    assert (table._pages.nbytes, table.version) == (small, version)
    table.grow(41, 0)
    table.grow(0, 20)
    table.set_lists(40, np.arange(1, 21), lengths([80]))
    table.grow(100, 0)
    assert table.version > version
    assert table.get_lists(40).tolist() == list(range(1, 21))
    assert on_device(table, 40, 0, 20) == ([list(range(1, 21))], [80])
    assert on_device(table, 0, 0, 2) == ([[5, 0]], [2])
    assert table.get_lists(99).tolist() == []
