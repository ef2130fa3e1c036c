"""Compaction against lists rebuilt by hand, entry by entry."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.compact import compact_lists
from corm_batch.ops.pages import Lists, Pages
from tests.ops.devices import KERNEL_DEVICES
from tests.ops.forms import FORMS, FP8, INT4, MODEL, assert_same, copied, encoded, laid_out

LAYER = 1


def make_case(lengths, page_size, width, dtype, death, device="cpu", form=MODEL, further=0):
    """A pool with shuffled pages, and one layer of the table of all slots: the rows of `lengths`, then one more.

    `death` says which entries are gone at step 50: a share of all, or the first or last so many of each list. Entries
    have so many `further` values.
    """
    slots, heads = lengths.shape
    longest = int(-(lengths.max() // -page_size))
    pool = slots * heads * longest + 1
    shape = (pool, page_size)
    expiry = torch.randint(51, 99, shape, dtype=torch.int32)
    pages = Pages(
        *(torch.randn(*shape, width).to(dtype) for _ in range(2)),
        torch.randint(1, 51, shape, dtype=torch.int32), expiry, torch.rand(shape),
        (torch.randn(shape), torch.randint(-99, 99, shape, dtype=torch.int32)),
    )  # fmt: skip
    ids = (torch.randperm(pool - 1) + 1).view(slots, heads, longest).int()
    index = torch.arange(longest * page_size)
    flat = ids[..., index // page_size].long() * page_size + index % page_size
    dead = torch.rand(flat.shape) < death if isinstance(death, float) else index.expand(flat.shape) < death
    if not isinstance(death, float) and death < 0:
        dead = index >= lengths[..., None] + death
    expiry.view(-1)[flat[dead]] = torch.randint(1, 51, (int(dead.sum()),), dtype=torch.int32)
    pages.position.view(-1)[flat[torch.rand(flat.shape) < 0.01]] = 51  # not yet there
    pages.key[0], pages.value[0] = torch.nan, torch.nan
    held = torch.arange(longest) * page_size < lengths[..., None]
    table = torch.randint(1, 99, (slots, 3, heads, longest + 2), dtype=torch.int32)
    table[:, LAYER, :, :longest] = torch.where(held, ids, 0)
    length = torch.full((slots, 3, heads), 77, dtype=torch.int32)
    length[:, LAYER] = lengths
    pages, others = encoded(pages, form), [torch.randn(*shape, width).to(dtype) for _ in range(further)]
    stored = [form.encode(other, other) for other in others]
    half = len(pages.scales) // 2
    scales = *pages.scales, *(scale for one in stored for scale in one.scales[half:])
    pages = pages._replace(scales=scales, further=tuple(one.value for one in stored))
    return laid_out(pages, device), table.to(device), length.to(device)


def shared_of(length):
    """Every other slot shares a third of its lists."""
    slots = torch.arange(len(length), device=length.device)[:, None]
    return torch.where(slots % 2 == 1, length[:, LAYER] // 3, 0)


def check(compact, pages, table, length, slot, step):
    """Run it and compare pool, table and length with what removing entries by hand gives."""
    page_size = pages.position.shape[1]
    old, old_length, old_table = copied(pages), length.cpu() + 0, table.cpu() + 0
    old = Pages.of((column.cpu() for column in old.tensors), len(old.scales))
    shared = shared_of(length)
    lost = compact(pages, Lists(table[:, LAYER], length[:, LAYER], slot, shared), step).cpu()
    new = Pages.of((column.cpu() for column in pages.tensors), len(pages.scales))
    assert lost.dtype == torch.float32
    expected_length, expected_lost = old_length.clone(), torch.zeros(len(slot), table.shape[2])
    touched = torch.zeros(old.position.shape, dtype=torch.bool)
    for row, s in enumerate(slot.tolist()):
        for k in range(table.shape[2]) if s >= 0 else ():
            index = torch.arange(int(old_length[s, LAYER, k]))
            page, place = old_table[s, LAYER, k, index // page_size].long(), index % page_size
            alive = (old.position[page, place] <= int(step[row])) & (old.expiry[page, place] > int(step[row]))
            alive |= index < int(shared[s, k])
            expected_length[s, LAYER, k] = alive.sum()
            expected_lost[row, k] = old.statistic[page, place][~alive].sum()
            for got, before in zip(new.tensors, old.tensors, strict=True):
                kept = before[page, place][alive].view(torch.uint8)
                assert torch.equal(got[page, place].view(torch.uint8)[: len(kept)], kept)
            touched[page, place] = True
    assert torch.equal(length.cpu(), expected_length)
    assert torch.equal(table.cpu(), old_table)
    torch.testing.assert_close(lost, expected_lost)
    for got, before in zip(new.tensors, old.tensors, strict=True):
        assert torch.equal(got[~touched].view(torch.uint8), before[~touched].view(torch.uint8))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    heads=st.integers(1, 3),
    page_size=st.sampled_from([1, 5, 16]),
    death=st.sampled_from([0.0, 0.2, 0.9, 1.0, 1, 7, -3]),
    seed=st.integers(0, 10**6),
)
def test_definition_removes_what_is_gone(form, data, heads, page_size, death, seed):
    torch.manual_seed(seed)
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, 40), min_size=3 * heads, max_size=3 * heads)))
    case = make_case(lengths.view(3, heads), page_size, 4, torch.float32, death, form=form)
    slot = torch.tensor(data.draw(st.permutations([0, 2, -1, -1]))[: data.draw(st.integers(1, 4))])
    check(compact_lists, *case, slot, torch.full(slot.shape, 50, dtype=torch.int32))


def test_each_sequence_has_a_step_of_its_own():
    case = make_case(torch.tensor([[20], [20]]), 4, 3, torch.float32, 0.5)
    check(compact_lists, *case, torch.tensor([1, 0]), torch.tensor([60, 50], dtype=torch.int32))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("further", [1, 3])
def test_values_of_other_layers_move_with_their_entry(form, further):
    case = make_case(torch.tensor([[20, 3], [9, 0]]), 4, 4, torch.float32, 0.5, form=form, further=further)
    check(compact_lists, *case, torch.tensor([1, -1, 0]), torch.full((3,), 50, dtype=torch.int32))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "page_size", "width", "further"), [(torch.float32, 5, 16, 1), (torch.float16, 16, 80, 2)]
)
def test_kernel_moves_values_of_other_layers(device, form, dtype, page_size, width, further):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels.compact import compact_lists

    lengths = torch.tensor([[40, 3], [0, 333], [17, 16]])
    case = make_case(lengths, page_size, width, dtype, 0.4, device, form, further)
    slot = torch.tensor([1, -1, 2, 0], device=device)
    check(compact_lists, *case, slot, torch.full((4,), 50, dtype=torch.int32, device=device))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("death", [0.0, 0.1, 1.0, 130, -1])
@pytest.mark.parametrize(
    ("page_size", "width", "dtype"),
    [
        (16, 128, torch.bfloat16),
        (1, 16, torch.float32),
        (5, 80, torch.float16),
        (64, 256, torch.bfloat16),
        (16, 64, torch.float32),
        (16, 96, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_removes_what_is_gone(device, form, page_size, width, dtype, death):
    kernel = pytest.importorskip("corm_batch.ops.kernels.compact")
    lengths = torch.tensor([[200, 0], [1, 199], [64, 65], [128, 20]])
    case = make_case(lengths, page_size, width, dtype, death, device, form)
    slot = torch.tensor([3, -1, 0, 2], device=device)
    check(kernel.compact_lists, *case, slot, torch.tensor([50, 50, 50, 60], dtype=torch.int32, device=device))


@pytest.mark.gpu
@pytest.mark.parametrize("death", [0.1, 0.7, 500])
@pytest.mark.parametrize(
    ("dtype", "form"), [(torch.bfloat16, MODEL), (torch.float32, MODEL), (torch.bfloat16, FP8), (torch.bfloat16, INT4)]
)
def test_kernel_matches_the_definition_on_a_batch(dtype, form, death):
    kernel = pytest.importorskip("corm_batch.ops.kernels.compact")
    lengths = torch.randint(1, 3000, (40, 8))
    pages, table, length = make_case(lengths, 16, 128, dtype, death, "cuda", form)
    slot = torch.randperm(40, device="cuda")[:37]
    slot[5] = -1
    step = torch.randint(48, 53, (37,), dtype=torch.int32, device="cuda")
    expected, expected_length = copied(pages), length.clone()
    lists = Lists(table[:, LAYER], length[:, LAYER], slot, shared_of(length))
    lost = kernel.compact_lists(pages, lists, step)
    torch.testing.assert_close(lost, compact_lists(expected, lists._replace(length=expected_length[:, LAYER]), step))
    assert torch.equal(length, expected_length)
    assert_same(pages, expected)
