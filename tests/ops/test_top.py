"""The highest ranks of each head, against sorting."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops.top import LOWEST, top_entries

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRET, reason="needs Triton's interpreter")),
]


def make_ranks(heads, count, candidates, device="cpu"):
    """Ranks as policies make them, and numbers from all over; about this share of them candidates."""
    position = torch.stack([torch.randperm(count) + 1 for _ in range(heads)])
    rank = (torch.randint(0, 2, (heads, count)) << 62) + (torch.randint(1, 99, (heads, count)) << 32) + position
    rank[::2] = torch.randint(LOWEST + 1, -LOWEST - 1, rank[::2].shape) // (count + 1) * (count + 1) + position[::2]
    rank[torch.rand(heads, count) >= candidates] = LOWEST
    return rank.to(device)


def by_sorting(rank, count):
    top = torch.zeros_like(rank, dtype=torch.bool)
    for k, row in enumerate(rank.tolist()):
        for n in sorted(range(len(row)), key=row.__getitem__)[-count:]:
            top[k, n] = row[n] != LOWEST
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
    rank = make_ranks(heads, entries, candidates)
    assert torch.equal(top_entries(rank, count), by_sorting(rank, count))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("candidates", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("heads", "entries", "count"), [(1, 1, 1), (5, 300, 1), (3, 1025, 700), (2, 64, 64), (2, 5, 9)]
)
def test_kernel_matches(device, heads, entries, count, candidates):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    rank = make_ranks(heads, entries, candidates, device)
    assert torch.equal(kernel.top_entries(rank, count), top_entries(rank, count))


@pytest.mark.parametrize("device", DEVICES)
def test_kernel_takes_the_extremes_of_int64(device):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    rank = torch.tensor([[LOWEST, LOWEST + 1, -1, 0, 1, -LOWEST - 1, 1 << 62]], device=device)
    for count in range(1, 8):
        assert torch.equal(kernel.top_entries(rank, count), by_sorting(rank, count))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "entries", "count"), [(32, 4096, 1024), (8, 131_072, 2048), (6000, 1300, 1024)])
def test_kernel_matches_on_many_entries(heads, entries, count):
    kernel = pytest.importorskip("corm_batch.ops.kernels.top")
    rank = make_ranks(heads, entries, 0.9, "cuda")
    assert torch.equal(kernel.top_entries(rank, count), top_entries(rank, count))
