"""One entry behind every list of a batch, by definition and by kernel."""

from __future__ import annotations

import pytest
import torch

from corm_batch.ops.append import append_entries, append_values
from corm_batch.ops.pages import Entries, Lists, Pages, narrowed, projected, read_pages
from tests.ops.devices import KERNEL_DEVICES
from tests.ops.forms import FORMS, MODEL, assert_same, copied, encoded, laid_out, pruned, some_basis

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def own(*shape, device, turn=False):
    """Two columns of a policy's own; turned as those are that a packed pass makes."""
    columns = torch.randn(shape, device=device), torch.randint(-99, 99, shape, device=device, dtype=torch.int32)
    return tuple(column.t() for column in columns) if turn else columns


def setup(device, dtype, num_slots, kv_heads, page_size, width, slots, form):
    """Lists with room for one more entry, in one layer of three; new entries as a model's packed heads leave them."""
    table_width = -(-40 // page_size)
    pool = num_slots * kv_heads * table_width + 1
    pages = Pages(
        *(torch.randn(pool, page_size, width, device=device).to(dtype) for _ in range(2)),
        *(torch.randint(99, (pool, page_size), device=device, dtype=torch.int32) for _ in range(2)),
        torch.rand(pool, page_size, device=device),
        own(pool, page_size, device=device),
    )
    table = torch.zeros(num_slots, 3, kv_heads, table_width, dtype=torch.int32, device=device)[:, 1]
    table[:] = (torch.randperm(pool - 1, device=device) + 1).view(table.shape)
    length = torch.randint(40, (num_slots, 3, kv_heads), device=device, dtype=torch.int32)[:, 1]
    length[:, 0] = torch.arange(num_slots, device=device) % 3
    slot = torch.tensor(slots, device=device)
    key, value = (torch.randn(kv_heads, len(slots), width, device=device).to(dtype).transpose(0, 1) for _ in range(2))
    position = torch.randint(50, 99, (len(slots), 1), device=device, dtype=torch.int32).expand(-1, kv_heads)
    found = torch.rand(len(slots), kv_heads, device=device)
    entries = Entries(key, value, position, position + 7, found, own(kv_heads, len(slots), device=device, turn=True))
    return encoded(pages, form), Lists(table, length, slot, torch.zeros_like(length)), entries


def check(append, pages, lists, entries, form):
    """Every real row's lists end with its entry; everything else is as before."""
    there = entries
    if lists.channels is not None:
        there = entries._replace(key=narrowed(entries.key, lists.channels[lists.slot.clamp(min=0)]))
    there = projected(there, lists.basis, dim=1)
    expected, stored = copied(pages), encoded(there, form)
    length, page_size = lists.length.clone(), pages.position.shape[1]
    for s, slot in enumerate(lists.slot.tolist()):
        for k in range(entries.position.shape[1] if slot >= 0 else 0):
            n = int(length[slot, k])
            for column, new in zip(expected.tensors, stored.tensors, strict=True):
                column[lists.table[slot, k, n // page_size], n % page_size] = new[s, k]
    append(pages, lists, entries, form=form)
    if lists.basis is None:
        assert_same(pages, expected)
    else:  # products of matrices are summed up in another order for other numbers of rows
        for one, other in zip(pages.tensors, expected.tensors, strict=True):
            torch.testing.assert_close(one, other)
    grown = torch.zeros(len(length), dtype=torch.int32, device=length.device)
    grown[lists.slot[lists.slot >= 0]] = 1
    assert torch.equal(lists.length, length + grown[:, None])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("page_size", [1, 5, 16])
@pytest.mark.parametrize("slots", [[4, 0, 2], [-1, 3, -1, 0], [-1]])
def test_entries_go_behind_their_lists(device, form, page_size, slots):
    check(append_entries, *setup(device, torch.float32, 6, 3, page_size, 16, slots, form), form)


def test_appended_entries_are_read_back_last():
    pages, lists, entries = setup("cpu", torch.bfloat16, 6, 2, 4, 8, [5, 1], MODEL)
    append_entries(pages, lists, entries, form=MODEL)
    for s, slot in enumerate([5, 1]):
        stored = read_pages(pages, lists.table[slot], lists.length[slot], MODEL)
        for k in range(2):
            last = int(lists.length[slot, k]) - 1
            assert torch.equal(stored.key[k, last], entries.key[s, k])
            assert stored.position[k, last] == entries.position[s, k]


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kv_heads", "page_size", "width"),
    [
        (torch.float32, 1, 1, 16),
        (torch.bfloat16, 8, 16, 128),
        (torch.float16, 3, 5, 80),
        (torch.float32, 2, 64, 256),
        (torch.bfloat16, 2, 16, 96),
    ],
)
def test_kernel(device, form, dtype, kv_heads, page_size, width):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels.append import append_entries

    check(append_entries, *setup(device, dtype, 9, kv_heads, page_size, width, [-1, 3, 8, -1, 0, 5], form), form)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("dtype", "width", "kept"), [(torch.float32, 16, 10), (torch.float16, 80, 48)])
def test_kernel_leaves_out_the_channels_that_a_list_does_not_store(device, dtype, width, kept):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import append

    for operation in (append_entries, append.append_entries):
        pages, lists, entries = setup(device, dtype, 9, 3, 5, width, [-1, 3, 8, -1, 0, 5], MODEL)
        pages, lists, _ = pruned(pages, lists, kept)
        check(operation, pages, lists, entries, MODEL)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "width", "value_width"), [(torch.float32, 16, 6, 10), (torch.bfloat16, 128, 76, 116)]
)
def test_kernel_stores_numbers_in_the_directions_of_a_basis(device, dtype, head_dim, width, value_width):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import append

    for operation in (append_entries, append.append_entries):
        pages, lists, entries = setup(device, dtype, 9, 3, 5, head_dim, [-1, 3, 8, -1, 0, 5], MODEL)
        pages = laid_out(pages._replace(key=pages.key[..., :width], value=pages.value[..., :value_width]))
        lists = lists._replace(basis=some_basis(3, head_dim, width, value_width, dtype, device))
        check(operation, pages, lists, entries, MODEL)


def check_values(put, pages, lists, entries, form):
    """The newest entry of every real row's lists has another value; everything else is as before."""
    lists.length.clamp_(min=1)
    expected, stored = copied(pages), encoded(entries, form)
    half, page_size = len(pages.scales) // 2, pages.size
    for s, slot in enumerate(lists.slot.tolist()):
        for k in range(entries.position.shape[1] if slot >= 0 else 0):
            n = int(lists.length[slot, k]) - 1
            place = lists.table[slot, k, n // page_size], n % page_size
            expected.value[place] = stored.value[s, k]
            for column, new in zip(expected.scales[half:], stored.scales[half:], strict=True):
                column[place] = new[s, k]
    length = lists.length.clone()
    put(pages, lists, entries.value, form=form)
    assert_same(pages, expected)
    assert torch.equal(lists.length, length)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slots", [[4, 0, 2], [-1, 3, -1, 0], [-1]])
def test_values_take_the_place_of_those_of_the_newest_entries(device, form, slots):
    check_values(append_values, *setup(device, torch.float32, 6, 3, 5, 16, slots, form), form)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kv_heads", "page_size", "width"),
    [(torch.float32, 1, 1, 16), (torch.bfloat16, 8, 16, 128), (torch.float16, 3, 5, 80)],
)
def test_kernel_of_values(device, form, dtype, kv_heads, page_size, width):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels.append import append_values

    check_values(append_values, *setup(device, dtype, 9, kv_heads, page_size, width, [-1, 3, 8, -1, 0, 5], form), form)
