"""Storing kept entries: the definition against a list built by hand, the kernel against the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries, Pages, narrowed
from corm_batch.ops.store import store_entries
from tests.ops.devices import KERNEL_DEVICES
from tests.ops.forms import FORMS, MODEL, assert_same, encoded, laid_out


def stale_pages(num_pages, page_size, width, dtype, form, device="cpu"):
    """A pool whose every slot holds what must never be seen."""
    pages = Pages(
        *(torch.full((num_pages, page_size, width), torch.nan, dtype=dtype, device=device) for _ in range(2)),
        *(torch.full((num_pages, page_size), -7, dtype=torch.int32, device=device) for _ in range(2)),
        torch.full((num_pages, page_size), torch.nan, device=device),
        (
            torch.full((num_pages, page_size), torch.nan, device=device),
            torch.full((num_pages, page_size), -7, dtype=torch.int32, device=device),
        ),
    )
    return encoded(pages, form)


def make_entries(heads, count, width, dtype, device="cpu"):
    """Keys as a packed pass gives them [T, K, D], the rest contiguous or one row for all heads."""
    return Entries(
        torch.randn(count, heads, width, device=device).to(dtype).transpose(0, 1),
        torch.randn(heads, count, width + 16, device=device).to(dtype)[..., 16:],
        torch.arange(1, count + 1, dtype=torch.int32, device=device).expand(heads, -1),
        torch.randint(1, 10**9, (heads, count), dtype=torch.int32, device=device),
        torch.zeros(1, device=device).expand(heads, count) if count % 2 else torch.rand(heads, count, device=device),
        (
            torch.randn(heads, count, device=device),
            torch.randint(-99, 99, (count, heads), dtype=torch.int32, device=device).t(),
        ),
    )


def draw_pages(own, fresh, used, device="cpu"):
    """Page ids nobody shares: `own` and `fresh` of them, and the total that makes room for all of this."""
    total = own + fresh + 5
    ids = (torch.randperm(total - 1) + 1)[: own + fresh].int().to(device)
    return total, ids[:own], ids[own:], torch.tensor([used], dtype=torch.int32, device=device)


def one_sequence(count, own):
    """All entries are of one sequence, and so are all the pages held already."""
    return Packing.of([count], own.device), torch.tensor([0, len(own)], dtype=torch.int32, device=own.device)


def by_hand(pages, entries, keep, own, fresh, used, form):
    """One entry at a time."""
    page_size, number, counts, stored = pages.position.shape[1], 0, [], encoded(entries, form)
    ids = own.tolist() + fresh.tolist()[used:]
    for k, row in enumerate(keep.tolist()):
        kept = [n for n, stays in enumerate(row) if stays]
        counts.append(len(kept))
        for start in range(0, len(kept), page_size):
            page = ids[number] if number < len(ids) else 0
            number += 1
            for column, new in zip(pages.tensors, stored.tensors, strict=True):
                column[page] = torch.zeros_like(column[page])
                for c, n in enumerate(kept[start : start + page_size]):
                    column[page, c] = new[k, n]
    return counts, used + max(0, number - len(own))


READ = slice(1, None)
"""Every page but the one nobody reads."""


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 5),
    count=st.integers(1, 60),
    page_size=st.sampled_from([1, 5, 16]),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    own=st.integers(0, 40),
    fresh=st.integers(0, 60),
    used=st.integers(0, 9),
    seed=st.integers(0, 10**6),
)
def test_definition_fills_pages_in_order(form, heads, count, page_size, share, own, fresh, used, seed):
    torch.manual_seed(seed)
    keep = torch.rand(heads, count) < share
    total, own_ids, fresh_ids, taken = draw_pages(own, fresh, used)
    entries = make_entries(heads, count, 4, torch.float32)
    pages = stale_pages(total, page_size, 4, torch.float32, form)
    expected = stale_pages(total, page_size, 4, torch.float32, form)
    packing, own_stops = one_sequence(count, own_ids)
    counts, lost = store_entries(pages, entries, keep, packing, own_ids, own_stops, fresh_ids, taken, form=form)
    expected_counts, expected_used = by_hand(expected, entries, keep, own_ids, fresh_ids, used, form)
    assert counts.tolist() == [expected_counts]
    assert counts.dtype == torch.int32
    torch.testing.assert_close(
        lost[0], torch.stack([row[~kept].sum() for row, kept in zip(entries.statistic, keep, strict=True)])
    )
    assert taken.tolist() == [expected_used]
    assert_same(pages, expected, READ)


SHAPES = [
    # heads, count, width, page_size, dtype
    (1, 1, 16, 16, torch.float32),
    (5, 300, 64, 16, torch.bfloat16),
    (2, 65, 80, 5, torch.float16),
    (3, 257, 96, 64, torch.bfloat16),
    (4, 128, 128, 1, torch.float32),
    (2, 70, 256, 16, torch.bfloat16),
]
LARGE = [(32, 5000, 128, 16, torch.bfloat16), (8, 131_072, 128, 16, torch.bfloat16), (3, 9999, 256, 32, torch.float32)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", [[5, 0, 33, 2], [12, 12, 12]], ids=str)
def test_sequences_are_stored_one_after_the_other(sizes, form):
    """Each takes its own pages, then fresh ones from where the one before it has stopped."""
    torch.manual_seed(1)
    keep = torch.rand(3, sum(sizes)) < 0.7
    total, ids, fresh, taken = draw_pages(12, 60, 2)
    stops = torch.tensor([0, 4, 5, *[12] * (len(sizes) - 2)], dtype=torch.int32)
    entries = make_entries(3, sum(sizes), 4, torch.float32)
    pages, expected = (stale_pages(total, 5, 4, torch.float32, form) for _ in range(2))
    packing, used = Packing.of(sizes, torch.device("cpu")), 2
    counts, lost = store_entries(pages, entries, keep, packing, ids, stops, fresh, taken, form=form)
    for number, part in enumerate(packing.slices):
        own = ids[stops[number] : stops[number + 1]]
        mine = entries.map(lambda column, n=part: column[:, n])
        expected_counts, used = by_hand(expected, mine, keep[:, part], own, fresh, used, form)
        assert counts[number].tolist() == expected_counts
        torch.testing.assert_close(lost[number], mine.statistic.masked_fill(keep[:, part], 0).sum(dim=1))
    assert taken.tolist() == [used]
    assert_same(pages, expected, READ)


def check_kernel(device, heads, count, width, page_size, dtype, share, own, short, form=MODEL, sizes=None):
    """The kernel against the definition; `own` as a share of the pages needed, `short` pages too few in the pool."""
    kernel = pytest.importorskip("corm_batch.ops.kernels.store")
    keep = torch.rand(heads, count, device=device) < share
    keep[0, : count // 3] = False  # whole tiles without an entry
    want = int((-(keep.sum(dim=-1) // -page_size)).sum())
    num_own, used = int(want * own), 4
    num_fresh = max(0, max(0, want - num_own) + used - short)
    total, own_ids, fresh_ids, taken = draw_pages(num_own, num_fresh, used, device)
    entries = make_entries(heads, count, width, dtype, device)
    pages, expected = (stale_pages(total, page_size, width, dtype, form, device) for _ in range(2))
    expected_taken = taken.clone()
    packing, own_stops = one_sequence(count, own_ids)
    if sizes is not None:
        packing = Packing.of(sizes, own_ids.device)
        own_stops = torch.linspace(0, len(own_ids), len(sizes) + 1).int().to(device)
    where = packing, own_ids, own_stops, fresh_ids
    counts, lost = kernel.store_entries(pages, entries, keep, *where, taken, form=form)
    expected_counts, expected_lost = store_entries(expected, entries, keep, *where, expected_taken, form=form)
    assert counts.dtype == torch.int32
    assert torch.equal(counts, expected_counts)
    torch.testing.assert_close(lost, expected_lost)
    assert torch.equal(taken, expected_taken)
    assert_same(pages, expected, READ)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("share", "own", "short"), [(0.0, 0, 0), (1.0, 0.5, 0), (0.3, 1.7, 0), (0.5, 0, 3)])
@pytest.mark.parametrize(("heads", "count", "width", "page_size", "dtype"), SHAPES)
def test_kernel_matches(device, heads, count, width, page_size, dtype, share, own, short):
    check_kernel(device, heads, count, width, page_size, dtype, share, own, short)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize(("heads", "count", "width", "page_size", "dtype"), SHAPES)
def test_kernel_encodes_as_the_definition_does(device, form, heads, count, width, page_size, dtype):
    check_kernel(device, heads, count, width, page_size, dtype, 0.4, 0.5, 0, form)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("share", "own", "short"), [(1.0, 0.5, 0), (0.4, 1.5, 0), (0.5, 0.2, 4)])
@pytest.mark.parametrize("sizes", [[120, 0, 7, 301], [64, 64, 64], [1] * 9], ids=str)
def test_kernel_matches_on_packed_sequences(device, sizes, share, own, short):
    check_kernel(device, 3, sum(sizes), 48, 16, torch.bfloat16, share, own, short, sizes=sizes)


@pytest.mark.gpu
@pytest.mark.parametrize(("share", "own", "short"), [(0.02, 0.5, 0), (0.9, 0, 7)])
@pytest.mark.parametrize("sizes", [[4096] * 4, [9000, 1, 0, 7383], [60] * 273], ids=len)
def test_kernel_matches_on_packed_prompts(sizes, share, own, short):
    check_kernel("cuda", 8, sum(sizes), 128, 16, torch.bfloat16, share, own, short, sizes=sizes)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("share", "own", "short"), [(0.02, 0.5, 0), (0.9, 0, 7)])
@pytest.mark.parametrize(("heads", "count", "width", "page_size", "dtype"), LARGE)
def test_kernel_matches_on_long_prompts(form, heads, count, width, page_size, dtype, share, own, short):
    check_kernel("cuda", heads, count, width, page_size, dtype, share, own, short, form)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("sizes", [[120, 0, 7, 201], [1] * 5], ids=str)
def test_kernel_leaves_out_the_channels_that_a_list_does_not_store(device, sizes):
    """As the definition does, which does as if they had been cut off before."""
    kernel = pytest.importorskip("corm_batch.ops.kernels.store")
    count, packing = sum(sizes), Packing.of(sizes, torch.device(device))
    keep, entries = torch.rand(3, count, device=device) < 0.6, make_entries(3, count, 48, torch.float32, device)
    channels = torch.rand(len(sizes), 3, 48).argsort(dim=-1)[..., :30].sort(dim=-1).values.to(device, torch.uint8)
    of_entry = channels.repeat_interleave(torch.tensor(sizes, device=device), dim=0).transpose(0, 1)
    total, own, fresh, _ = draw_pages(9, 400, 3, device)
    stops = torch.linspace(0, 9, len(sizes) + 1).int().to(device)

    def stored(operation, given, channels=None):
        pages = stale_pages(total, 16, 48, torch.float32, MODEL, device)
        pages = laid_out(pages._replace(key=pages.key[..., :30]))
        taken = torch.tensor([3], dtype=torch.int32, device=device)
        operation(pages, given, keep, packing, own, stops, fresh, taken, channels, form=MODEL)
        return pages

    expected = stored(store_entries, entries._replace(key=narrowed(entries.key, of_entry)))
    for operation in (store_entries, kernel.store_entries):
        assert_same(stored(operation, entries, channels), expected, READ)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("key_width", "value_width"), [(12, 40), (76, 20)])
def test_kernel_stores_keys_and_values_of_two_widths(device, key_width, value_width):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import store

    entries, packing = make_entries(3, 70, 96, torch.float16, device), Packing.of([30, 40], torch.device(device))
    entries = entries._replace(key=entries.key[..., :key_width], value=entries.value[..., :value_width])
    keep = torch.rand(3, 70, device=device) < 0.6
    own, stops = torch.zeros(0, dtype=torch.int32, device=device), torch.zeros(3, dtype=torch.int32, device=device)
    found = []
    for operation in (store_entries, store.store_entries):
        pages = stale_pages(60, 5, 96, torch.float16, MODEL, device)
        pages = laid_out(pages._replace(key=pages.key[..., :key_width], value=pages.value[..., :value_width]))
        fresh, taken = torch.arange(1, 60, dtype=torch.int32, device=device), own.new_zeros(1)
        operation(pages, entries, keep, packing, own, stops, fresh, taken, form=MODEL)
        found.append(pages)
    assert_same(found[1], found[0], slice(1, 40))
