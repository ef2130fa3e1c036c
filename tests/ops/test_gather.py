"""Gathering entries: the definition against lists read one entry at a time, the kernel against the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.gather import gather_entries
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries, Lists, Pages
from tests.ops.devices import INTERPRET, KERNEL_DEVICES
from tests.ops.forms import FORMS, MODEL, decoded, encoded, pruned


def random_columns(lead, width, dtype, device):
    return (
        *(torch.randn(*lead, width, device=device).to(dtype) for _ in range(2)),
        *(torch.randint(1, 10**9, lead, dtype=torch.int32, device=device) for _ in range(2)),
        torch.rand(lead, device=device),
        (torch.randn(lead, device=device), torch.randint(-99, 99, lead, dtype=torch.int32, device=device)),
    )


def make_case(heads, longest, born, page_size, width, dtype, form, device="cpu", sequences=1):
    """Ragged lists in shuffled pages, a table that is a slice of a wider one, keys as a packed pass gives them."""
    length = torch.randint(0, longest + 1, (sequences, heads), dtype=torch.int32)
    used = -(-int(length.max()) // page_size)
    total = sequences * heads * (used + 2) + 1
    pages = Pages(*random_columns((total, page_size), width, dtype, device))
    table = (torch.randperm(total - 1) + 1).int().view(sequences, heads, used + 2)
    wide = Entries(*random_columns((heads, born + 3), width, dtype, device))
    new = Entries(
        torch.randn(born, heads, width, device=device).to(dtype).transpose(0, 1), wide.value[:, 3:],
        torch.arange(born, dtype=torch.int32, device=device).expand(heads, -1), wide.expiry[:, 3:],
        torch.zeros(1, device=device).expand(heads, born),
        (wide.own[0][:, 3:], torch.arange(heads * born, dtype=torch.int32, device=device).view(born, heads).t()),
    )  # fmt: skip
    return encoded(pages, form), table.to(device)[..., :used], length.to(device), new


def make_packed(sequences, heads, longest, page_size, width, dtype, form, device="cpu"):
    """Several sequences, each with room for its own longest list and some new entries, or none."""
    sizes = torch.randint(0, 9, (sequences,)).numpy()
    case = make_case(heads, longest, int(sizes.sum()), page_size, width, dtype, form, device, sequences)
    held = (-(-case[2].cpu().amax(dim=1) // page_size) * page_size).numpy()
    return case, tuple(Packing.of(numbers, torch.device(device)) for numbers in (sizes, held + sizes))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=50, deadline=None)
@given(
    heads=st.integers(1, 4),
    longest=st.integers(0, 40),
    born=st.integers(0, 12),
    page_size=st.sampled_from([1, 5, 16]),
    seed=st.integers(0, 10**6),
)
def test_definition_reads_every_entry_from_its_place(form, heads, longest, born, page_size, seed):
    torch.manual_seed(seed)
    pages, table, length, new = make_case(heads, longest, born, page_size, 4, torch.float32, form)
    gathered, pages = gather_entries(pages, table, length, new, form=form), decoded(pages, form)
    num_held, table, length = table.shape[2] * page_size, table[0], length[0]
    assert gathered.position.shape == (heads, num_held + born)
    for k in range(heads):
        for n in range(num_held):
            if n >= length[k]:
                assert (gathered.position[k, n], gathered.statistic[k, n]) == (NEVER, 0.0)
                continue
            page, slot = table[k, n // page_size], n % page_size
            for column, source in zip(gathered.tensors, pages.tensors, strict=True):
                assert torch.equal(column[k, n], source[page, slot])
        for column, source in zip(gathered.tensors, new.tensors, strict=True):
            assert torch.equal(column[k, num_held:], source[k])


@settings(max_examples=25, deadline=None)
@given(
    sequences=st.integers(1, 5),
    heads=st.integers(1, 3),
    longest=st.integers(0, 40),
    page_size=st.sampled_from([1, 5, 16]),
    seed=st.integers(0, 10**6),
)
def test_sequences_gathered_together_are_what_each_is_alone(sequences, heads, longest, page_size, seed):
    torch.manual_seed(seed)
    case, (newer, every) = make_packed(sequences, heads, longest, page_size, 4, torch.float32, MODEL)
    pages, table, length, new = case
    together = gather_entries(*case, (newer, every), form=MODEL)
    for s, (born, whole) in enumerate(zip(newer.slices, every.slices, strict=True)):
        width = (int(every.sizes[s]) - int(newer.sizes[s])) // page_size
        own = Entries.of(column[:, born] for column in new.tensors)
        alone = gather_entries(pages, table[s : s + 1, :, :width], length[s : s + 1], own, form=MODEL)
        for one, other in zip(together.tensors, alone.tensors, strict=True):
            assert torch.equal(one[:, whole], other)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("sequences", "heads", "longest", "page_size", "width"),
    [(3, 2, 70, 16, 80), (5, 1, 9, 5, 16), (2, 4, 0, 16, 64)],
)
def test_packed_kernel_matches(device, form, sequences, heads, longest, page_size, width, dtype):
    kernel = pytest.importorskip("corm_batch.ops.kernels.gather")
    if INTERPRET and dtype == torch.bfloat16:
        pytest.skip("the interpreter has no bfloat16")
    case, packing = make_packed(sequences, heads, longest, page_size, width, dtype, form, device)
    got, expected = kernel.gather_entries(*case, packing, form=form), gather_entries(*case, packing, form=form)
    for one, other in zip(got.tensors, expected.tensors, strict=True):
        assert one.is_contiguous()
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("heads", "longest", "born", "page_size", "width"),
    [(1, 0, 1, 16, 16), (3, 70, 130, 16, 80), (5, 33, 0, 5, 64), (2, 300, 257, 16, 128), (4, 65, 64, 1, 256)],
)
def test_kernel_matches(device, form, heads, longest, born, page_size, width, dtype):
    kernel = pytest.importorskip("corm_batch.ops.kernels.gather")
    if INTERPRET and dtype == torch.bfloat16:
        pytest.skip("the interpreter has no bfloat16")
    case = make_case(heads, longest, born, page_size, width, dtype, form, device)
    got, expected = kernel.gather_entries(*case, form=form), gather_entries(*case, form=form)
    for one, other in zip(got.tensors, expected.tensors, strict=True):
        assert one.is_contiguous()
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_kernel_matches_on_long_lists(form):
    kernel = pytest.importorskip("corm_batch.ops.kernels.gather")
    case = make_case(32, 40_000, 2048, 16, 128, torch.bfloat16, form, "cuda")
    got, expected = kernel.gather_entries(*case, form=form), gather_entries(*case, form=form)
    for one, other in zip(got.tensors, expected.tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("sequences", "heads", "longest", "page_size", "width", "kept"), [(3, 2, 70, 16, 80, 48), (2, 3, 9, 5, 16, 10)]
)
def test_kernel_has_zeros_in_channels_that_are_not_stored(
    device, dtype, sequences, heads, longest, page_size, width, kept
):
    kernel = pytest.importorskip("corm_batch.ops.kernels.gather")
    case, packing = make_packed(sequences, heads, longest, page_size, width, dtype, MODEL, device)
    pages, table, length, new = case
    narrow, lists, zeroed = pruned(pages, Lists(table, length, length, length), kept)
    expected = gather_entries(zeroed, table, length, new, packing, form=MODEL)
    for operation in (gather_entries, kernel.gather_entries):
        got = operation(narrow, table, length, new, packing, lists.channels, form=MODEL)
        for one, other in zip(got.tensors, expected.tensors, strict=True):
            assert one.is_contiguous()
            assert torch.equal(one, other)
