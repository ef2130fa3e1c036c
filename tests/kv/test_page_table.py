"""Ragged lists of pages, and the device copy that follows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.kv.page_table import PageTable

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def on_device(table, slot, layer, width):
    return table.lists(torch.tensor(slot, device=table._device), layer, width).tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_lists_of_any_length_are_replaced_and_the_longest_makes_room(device):
    table = PageTable(2, 2, 2, page_size=4, device=torch.device(device))
    none = np.empty(0, np.int64)
    table.set_lists(0, 1, [np.array([7, 3]), none], np.array([5, 0]))
    table.set_lists(1, 0, [none, np.arange(1, 41)], np.array([0, 160]))  # far wider than at first
    assert table.get_list(0, 1, 0).tolist() == [7, 3]
    assert table.get_list(1, 0, 1).tolist() == list(range(1, 41))
    assert on_device(table, 0, 1, 3) == [[7, 3, 0], [0, 0, 0]]
    assert on_device(table, 1, 0, 40)[1] == list(range(1, 41))
    table.set_lists(1, 0, [none, np.array([9])], np.array([0, 2]))
    assert on_device(table, 1, 0, 3)[1] == [9, 0, 0]
    assert table.num_pages(1).tolist() == [[0, 1], [0, 0]]
    table.clear(1)
    assert table.num_pages(1).tolist() == [[0, 0], [0, 0]]
    assert table.get_list(0, 1, 0).tolist() == [7, 3]


@pytest.mark.parametrize("device", DEVICES)
def test_a_full_list_gets_its_next_page_behind_the_others(device):
    table = PageTable(1, 1, 2, page_size=4, device=torch.device(device))
    table.set_lists(0, 0, [np.array([5, 6]), np.empty(0, np.int64)], np.array([8, 0]))
    table.extend((np.array([0, 0]), np.array([0, 0]), np.array([0, 1])), np.array([8, 9]))
    table.lengths[0] += 1
    assert on_device(table, 0, 0, 3) == [[5, 6, 8], [9, 0, 0]]
    assert table.page_of(np.array([0]), 0).tolist() == [[8, 9]]
