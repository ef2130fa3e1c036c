"""Where packed sequences stand, and operations over several of them against each of them alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.ops import dense, reduction
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from tests.ops.devices import KERNEL_DEVICES

CPU = torch.device("cpu")
RAGGED = ([33, 0, 5, 70], [1], [0, 16, 0], [20, 20, 20])
"""Rows of each sequence: unequal ones, none, equal ones."""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), more=st.integers(0, 3))
def test_unpacking_puts_each_sequence_on_its_own_and_packing_undoes_it(sizes, more):
    packing, longest = Packing.of(sizes, CPU), max(sizes)
    packed = torch.arange(3 * sum(sizes) * 2).view(3, sum(sizes), 2)
    if not sum(sizes):
        return
    apart = packing.unpack(packed, longest + more)
    assert apart.shape == (len(sizes), 3, longest + more, 2)
    padding = packing.padding()
    for number, (part, size) in enumerate(zip(packing.slices, sizes, strict=True)):
        assert torch.equal(apart[number, :, :size], packed[:, part])
        if padding is None:
            assert size == longest
        else:
            assert padding[number, 0].tolist() == [False] * size + [True] * (longest - size)
    assert torch.equal(packing.pack(apart), packed)


def test_equal_sequences_are_unpacked_without_a_copy():
    packed = torch.randn(2, 12, 4)
    assert Packing.of([4, 4, 4], CPU).unpack(packed).data_ptr() == packed.data_ptr()
    assert Packing.of([12], CPU).pack(packed[None]).data_ptr() == packed.data_ptr()


def test_the_newest_of_each_sequence():
    packing = Packing.of([5, 0, 2, 9], CPU).newest(3)
    assert packing.slices == [slice(2, 5), slice(5, 5), slice(5, 7), slice(13, 16)]
    assert packing.bounds.tolist() == [[2, 5, 5, 13], [3, 0, 2, 3]]
    assert packing.longest == 3


def make_pass(rows, width=16, group=2, kv_heads=2, device="cpu", dtype=torch.float32):
    """Chunks of several sequences behind what each of them holds, whose heads are ragged: padding lies between."""
    torch.manual_seed(sum(rows))
    held = [7 * (number % 3) for number in range(len(rows))]
    asking = Packing.of(rows, torch.device(device))
    own = [old + new for old, new in zip(held, rows, strict=True)]
    query = torch.randn(sum(rows) + 3, kv_heads * group, width, device=device).to(dtype)[3:].transpose(0, 1)
    key, value = (torch.randn(sum(own), kv_heads, width, device=device).to(dtype).transpose(0, 1) for _ in range(2))
    position, step, older = [], [], []
    for old, new in zip(held, rows, strict=True):
        here = torch.arange(5, 5 + old + new, dtype=torch.int32).repeat(kv_heads, 1)
        kept = torch.randint(0, old + 1, (kv_heads,), dtype=torch.int32)
        here[(torch.arange(old + new) >= kept[:, None]) & (torch.arange(old + new) < old)] = NEVER
        position.append(here)
        step.append(torch.arange(5 + old, 5 + old + new, dtype=torch.int32))
        older.append(kept)
    hole = torch.stack(older).to(device), torch.tensor(held, dtype=torch.int32, device=device)
    packed = Packing.of(own, torch.device(device))
    packed = Packing(packed.starts, packed.sizes, packed.device, hole)
    born = torch.cat(position, dim=1).to(device)
    expiry = born.clamp(max=NEVER - 99) + torch.randint(1, 30, born.shape, dtype=torch.int32).to(device)
    entries = Entries(key, value, born, expiry, torch.rand(born.shape).to(device))
    return query, torch.cat(step).to(device), entries, (asking, packed)


def each_alone(packing, of_one):
    """What an operation gives for each sequence alone, along its last dimension, side by side."""
    found = [of_one(rows, own) for rows, own in zip(*(both.slices for both in packing), strict=True)]
    return [torch.cat(column, dim=1) for column in zip(*found, strict=True)]


def compare_attention(attend, case, softcap=None, window=None):
    query, step, entries, packing = case
    last = torch.full_like(entries.position, NEVER) if window is None else entries.position.clamp(max=999) + window
    sink = torch.randn(len(query), device=query.device)  # a sequence may hold nothing that a row sees

    def of_one(rows, own):
        seen = entries.position[:, own], last[:, own], 0.3, softcap, sink
        return attend(query[:, rows], entries.key[:, own], entries.value[:, own], step[rows], *seen)

    seen = entries.position, last, 0.3, softcap, sink
    out, lse = attend(query, entries.key, entries.value, step, *seen, packing)
    expected_out, expected_lse = each_alone(packing, of_one)
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(lse, expected_lse)
    return out, lse


def compare_votes(reduce, kind, case, gap_rule):
    query, step, entries, packing = case
    last = torch.full_like(entries.position, NEVER)
    _, lse = dense.dense_attention(
        query.float(), entries.key.float(), entries.value.float(), step, entries.position, last, 0.3, packing=packing
    )
    voting = packing[0] if gap_rule else packing[0].newest(kind.window)

    def of_one(rows, own):
        voted = reduce(
            kind, query[:, rows], lse[:, rows], step[rows], entries.map(lambda x: x[:, own]), last[:, own], 0.3,
            gap_rule=gap_rule,
        )  # fmt: skip
        return voted.expiry, voted.statistic

    voted = reduce(kind, query, lse, step, entries, last, 0.3, gap_rule=gap_rule, packing=(voting, packing[1]))
    expiry, statistic = each_alone((voting, packing[1]), of_one)
    assert torch.equal(voted.expiry, expiry)
    torch.testing.assert_close(voted.statistic, statistic, rtol=0, atol=0)
    return voted


@pytest.mark.parametrize("rows", RAGGED, ids=str)
def test_definitions_do_to_each_sequence_what_they_do_to_one_alone(rows):
    case = make_pass(rows)
    compare_attention(dense.dense_attention, case, softcap=3.0, window=9)
    voted = compare_votes(reduction.reduce_columns, Reduction(16, "step", tau=4.0, reach=3), case, gap_rule=False)
    assert (voted.expiry != case[2].expiry).any() or not sum(rows)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("rows", RAGGED, ids=str)
@pytest.mark.parametrize(("softcap", "window"), [(None, None), (3.0, 9)])
def test_dense_attention_kernel(device, rows, softcap, window):
    kernels = pytest.importorskip("corm_batch.ops.kernels.dense")
    case = make_pass(rows, device=device)
    found = compare_attention(kernels.dense_attention, case, softcap, window)
    assert all(part.isfinite().all() for part in found)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("rows", RAGGED, ids=str)
@pytest.mark.parametrize("gap_rule", [False, True])
@pytest.mark.parametrize(
    "kind",
    [Reduction(16, "step", tau=4.0, reach=3), Reduction(9, "cache", tau=2.0), Reduction(1, statistic="last")],
    ids=str,
)
def test_reduction_kernel(device, rows, gap_rule, kind):
    kernels = pytest.importorskip("corm_batch.ops.kernels.reduction")
    compare_votes(kernels.reduce_columns, kind, make_pass(rows, device=device), gap_rule)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [[2048, 2048, 700, 1], [4096] * 4, [3000, 0, 5000]], ids=str)
@pytest.mark.parametrize("group", [1, 4])
def test_kernels_on_passes_that_are_served(rows, group, dtype):
    dense_kernel = pytest.importorskip("corm_batch.ops.kernels.dense")
    reduction_kernel = pytest.importorskip("corm_batch.ops.kernels.reduction")
    case = make_pass(rows, 128, group, 8, "cuda", dtype)
    compare_attention(dense_kernel.dense_attention, case)
    kind = Reduction(128, "step", tau=64.0, reach=48)
    for gap_rule in (False, True):
        compare_votes(reduction_kernel.reduce_columns, kind, case, gap_rule)
