"""The highest ranks of each head, against sorting."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.top import top_entries

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
