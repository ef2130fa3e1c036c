"""The highest ranks of each head, against sorting."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.top import order_entries, top_entries

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRET, reason="needs Triton's interpreter")),
]


EXTREME = torch.iinfo(torch.int64)


def make_ranks(heads, count, candidates, device="cpu"):
    """Ranks as policies make them, and numbers from all over; about this share of them candidates."""
    position = torch.stack([torch.randperm(count) + 1 for _ in range(heads)])
    rank = (torch.randint(0, 2, (heads, count)) << 62) + (torch.randint(1, 99, (heads, count)) << 32) + position
    rank[::2] = torch.randint(EXTREME.min, EXTREME.max, rank[::2].shape) // (count + 1) * (count + 1) + position[::2]
    return rank.to(device), (torch.rand(heads, count) < candidates).to(device)


def by_sorting(rank, candidate, count):
    top = torch.zeros_like(candidate)
    for k, row in enumerate(rank.tolist()):
        chosen = candidate[k].nonzero().flatten().tolist()
        top[k, sorted(chosen, key=row.__getitem__)[-count:]] = True
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


def by_sorting_each(rank, candidate, most):
    return torch.cat([
        by_sorting(rank[k : k + 1], candidate[k : k + 1], count) if count else torch.zeros_like(candidate[k : k + 1])
        for k, count in enumerate(most.tolist())
    ])  # fmt: skip


@pytest.mark.parametrize("candidates", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("heads", "entries"), [(1, 1), (5, 33), (3, 1)])
def test_every_head_may_have_a_number_of_its_own(heads, entries, candidates):
    ranks, most = make_ranks(heads, entries, candidates), torch.randint(0, entries + 2, (heads,))
    assert torch.equal(top_entries(*ranks, most), by_sorting_each(*ranks, most))


@pytest.mark.parametrize("device", DEVICES)
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
    seed=st.integers(0, 10**6),
)
def test_definition_is_what_sorting_finds(heads, entries, count, candidates, seed):
    torch.manual_seed(seed)
    ranks = make_ranks(heads, entries, candidates)
    assert torch.equal(top_entries(*ranks, count), by_sorting(*ranks, count))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("candidates", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("heads", "entries", "count"), [(1, 1, 1), (5, 300, 1), (3, 1025, 700), (2, 64, 64), (2, 5, 9), (2, 8200, 3000)]
)
def test_kernel_matches(device, heads, entries, count, candidates):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    ranks = make_ranks(heads, entries, candidates, device)
    assert torch.equal(kernel.top_entries(*ranks, count), top_entries(*ranks, count))


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_takes_the_extremes_of_int64(device):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    rank = torch.tensor([[EXTREME.min, EXTREME.min + 1, -1, 0, 1, EXTREME.max, 1 << 62]], device=device)
    candidate = torch.ones_like(rank, dtype=torch.bool)
    for count in range(1, 8):
        assert torch.equal(kernel.top_entries(rank, candidate, count), by_sorting(rank, candidate, count))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "entries", "count"), [(32, 4096, 1024), (8, 131_072, 2048), (6000, 1300, 1024)])
def test_kernel_matches_on_many_entries(heads, entries, count):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    ranks = make_ranks(heads, entries, 0.9, "cuda")
    assert torch.equal(kernel.top_entries(*ranks, count), top_entries(*ranks, count))


@pytest.mark.parametrize("device", DEVICES)
def test_more_entries_than_a_count_holds_take_the_definition(device, monkeypatch):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    monkeypatch.setattr(kernel, "_COUNT_BITS", type("", (), {"value": 5}))
    monkeypatch.setattr(kernel, "_top_kernel", None)
    ranks = make_ranks(2, 32, 0.9, device)
    assert torch.equal(kernel.top_entries(*ranks, 9), by_sorting(*ranks, 9))
