"""The highest ranks of each head, against sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.top import order_entries, top_entries
from tests.ops.devices import KERNEL_DEVICES

EXTREME = torch.iinfo(torch.int32)


def make_ranks(heads, count, candidates, device="cpu", kind=torch.int32):
    """Ranks as policies make them, and in every other head numbers from all over; about this share are candidates."""
    position = torch.stack([torch.randperm(count) + 1 for _ in range(heads)]).int()
    rank = torch.randint(1, 99, (heads, count), dtype=torch.int32)
    rank[::2] = torch.randint(EXTREME.min, EXTREME.max, rank[::2].shape)
    if kind == torch.float32:
        few = torch.tensor([torch.nan, -torch.inf, -2.5, -0.0, 0.0, 1e-45, torch.inf])
        rank = torch.where(rank % 3 == 0, few[rank % 7], rank.view(torch.float32))
    return rank.to(device), position.to(device), (torch.rand(heads, count) < candidates).to(device)


def by_sorting(rank, position, candidate, count):
    top, values = torch.zeros_like(candidate), rank.double().nan_to_num(nan=-torch.inf, posinf=torch.inf)
    for k, row in enumerate(zip(values.tolist(), position.tolist(), strict=True)):
        chosen, places = candidate[k].nonzero().flatten().tolist(), list(zip(*row, strict=True))
        top[k, sorted(chosen, key=places.__getitem__)[-count:]] = True
    return top


@pytest.mark.parametrize("kind", [torch.float32, torch.int32])
def test_order_is_that_of_the_ranks_whatever_their_sign_and_then_of_the_positions(kind):
    numbers = [-3.5e38, -7.25, -1.0, -0.0, 0.0, 1e-45, 1.0, 1.0, 7.5, 2.0**40]
    if kind == torch.float32:
        rank = torch.tensor([torch.nan, -torch.inf, *numbers, torch.inf])
    else:
        rank = torch.tensor([-(2**31), -9, -1, 0, 0, 1, 5, 2**31 - 1], dtype=torch.int32)
    for seed in range(20):
        shuffled = torch.randperm(len(rank), generator=torch.Generator().manual_seed(seed))
        position = torch.arange(1, len(rank) + 1, dtype=torch.int32)
        order = order_entries(rank[shuffled], position)
        values = rank[shuffled].double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).tolist()
        assert order.argsort().tolist() == sorted(range(len(rank)), key=lambda i: (values[i], i))
        assert order.dtype == torch.int64
        assert order.unique().numel() == len(rank)


def by_sorting_each(*ranks_and_most):
    *columns, most = ranks_and_most
    rows = [[column[k : k + 1] for column in columns] for k in range(len(most))]
    tops = [by_sorting(*row, n) if n else torch.zeros_like(row[-1]) for row, n in zip(rows, most.tolist(), strict=True)]
    return torch.cat(tops)


@pytest.mark.parametrize("candidates", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("heads", "entries"), [(1, 1), (5, 33), (3, 1)])
def test_every_head_may_have_a_number_of_its_own(heads, entries, candidates):
    ranks, most = make_ranks(heads, entries, candidates), torch.randint(0, entries + 2, (heads,))
    assert torch.equal(top_entries(*ranks, most), by_sorting_each(*ranks, most))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(("heads", "entries"), [(1, 1), (5, 300), (3, 1100)])
def test_kernel_takes_a_number_for_every_head(device, heads, entries):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    ranks = make_ranks(heads, entries, 0.7, device)
    most = torch.randint(0, entries + 2, (heads,), device=device)
    most[0] = 0
    assert torch.equal(kernel.top_entries(*ranks, most), by_sorting_each(*ranks, most))


@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 4),
    entries=st.integers(1, 50),
    count=st.integers(1, 60),
    candidates=st.sampled_from([0.0, 0.3, 1.0]),
    kind=st.sampled_from([torch.int32, torch.float32]),
    seed=st.integers(0, 10**6),
)
def test_definition_is_what_sorting_finds(heads, entries, count, candidates, kind, seed):
    torch.manual_seed(seed)
    ranks = make_ranks(heads, entries, candidates, kind=kind)
    assert torch.equal(top_entries(*ranks, count), by_sorting(*ranks, count))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("kind", [torch.int32, torch.float32])
@pytest.mark.parametrize("candidates", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("heads", "entries", "count"), [(1, 1, 1), (5, 300, 1), (3, 1025, 700), (2, 64, 64), (2, 5, 9), (2, 8200, 3000)]
)
def test_kernel_matches(device, heads, entries, count, candidates, kind):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    ranks = make_ranks(heads, entries, candidates, device, kind)
    assert torch.equal(kernel.top_entries(*ranks, count), top_entries(*ranks, count))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_kernel_takes_extremes_and_columns_that_all_heads_share(device):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    rank = torch.tensor([EXTREME.min, EXTREME.min + 1, -1, 0, 1, EXTREME.max, 1 << 30, EXTREME.max], device=device)
    rank = rank.int().expand(2, -1)
    position = torch.tensor([1, 2, 3, EXTREME.max, 5, 6, 7, 8], dtype=torch.int32, device=device).expand(2, -1)
    candidate = torch.ones_like(rank, dtype=torch.bool)
    for count in range(1, 9):
        ranks = rank, position, candidate
        assert torch.equal(kernel.top_entries(*ranks, count), by_sorting(*ranks, count))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "entries", "count"), [(32, 4096, 1024), (8, 131_072, 2048), (6000, 1300, 1024)])
def test_kernel_matches_on_many_entries(heads, entries, count):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    ranks = make_ranks(heads, entries, 0.9, "cuda")
    assert torch.equal(kernel.top_entries(*ranks, count), top_entries(*ranks, count))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_more_entries_than_a_count_holds_take_the_definition(device, monkeypatch):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    monkeypatch.setattr(kernel, "_COUNT_BITS", type("", (), {"value": 5}))
    monkeypatch.setattr(kernel, "_top_kernel", None)
    ranks = make_ranks(2, 32, 0.9, device)
    assert torch.equal(kernel.top_entries(*ranks, 9), by_sorting(*ranks, 9))
