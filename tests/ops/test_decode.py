"""Paged decode attention against the dense definition, on ragged, empty-tailed and shuffled pages; then the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from corm_batch.ops.append import append_entries
from corm_batch.ops.decode import Distant, decode_attention, rows_at_once
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.form import Form
from corm_batch.ops.pages import NEVER, Entries, Lists, Pages, read_pages, write_pages
from corm_batch.ops.reduction import ALL_ROWS, Reduction, reduce_columns
from tests.ops.devices import KERNEL_DEVICES
from tests.ops.forms import FORMS, FP8, INT4, MODEL, copied, decoded, encoded, laid_out, pruned, some_basis

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
REDUCTIONS = [
    None,
    Reduction(5, "step", 1.2),
    Reduction(9, "cache", 0.8),
    Reduction(4),
    Reduction(6, "step", 2.0, 3),
    Reduction(4, statistic="sum_squares"),
    Reduction(5, "step", 1.2, statistic="max"),
    Reduction(ALL_ROWS, "cache", 0.8, 2, "count_low"),
    Reduction(1, statistic="last"),
]


class Cache(NamedTuple):
    """A pool, the lists of some of its slots, the step each of these is at, and which places hold an entry."""

    pages: Pages
    lists: Lists
    step_S: Tensor
    written_PC: Tensor
    form: Form

    def copy(self):
        return self._replace(pages=copied(self.pages))

    def exact(self):
        """The same in float32."""
        return self._replace(pages=copied(decoded(self.pages, self.form)), form=MODEL)

    def decode(self, query, reduction=None, *features, step=None):
        """Attention of a query a row."""
        step = self.step_S if step is None else step
        return decode_attention(self.pages, self.lists, query, step, reduction, 0.3, *features, form=self.form)


def fill(device, dtype, sequences, kv_heads, page_size, width, shortest=1, longest=40, room=1, form=MODEL):
    """Ragged lists in shuffled pages, each with room for `room` entries more; every other slot shares half of its own.

    Tables and lengths are views of one layer of three, of more slots than asked.
    """
    num_slots = sequences + 2
    lengths = torch.randint(shortest, longest, (num_slots, kv_heads), device=device)
    lengths[0, 0] = shortest
    table_width = -(-longest // page_size) + 1
    pool = num_slots * kv_heads * table_width + 1
    pages = Pages(
        *(torch.zeros(pool, page_size, width, device=device, dtype=dtype) for _ in range(2)),
        *(torch.randint(0, 99, (pool, page_size), device=device, dtype=torch.int32) for _ in range(2)),
        torch.zeros(pool, page_size, device=device),
    )
    pages = encoded(pages, form)
    ids = (torch.randperm(pool - 1, device=device) + 1).view(num_slots, kv_heads, table_width)
    used = torch.arange(table_width, device=device) * page_size < lengths[..., None] + room
    table = torch.randint(pool, (num_slots, 3, kv_heads, table_width), device=device, dtype=torch.int32)[:, 1]
    length = torch.randint(longest, (num_slots, 3, kv_heads), device=device, dtype=torch.int32)[:, 1]
    table[:], length[:] = torch.where(used, ids, 0), lengths
    step = lengths.amax(dim=1).int() + torch.randint(1, 30, (num_slots,), device=device).int()
    written = torch.zeros(pool, page_size, dtype=torch.bool, device=device)
    for s in range(num_slots):
        for k in range(kv_heads):
            n = int(lengths[s, k])
            position = (torch.randperm(int(step[s]), device=device)[:n] + 1).int().sort().values
            expiry = step[s] + torch.randint(-3, 9, (n,), device=device).int()
            position[-1:], expiry[-1:] = step[s], step[s] + 3
            keys, values = (torch.randn(n, width, device=device, dtype=dtype) for _ in range(2))
            index = torch.arange(n, device=device)
            place = ids[s, k, index // page_size], index % page_size
            write_pages(pages, *place, Entries(keys, values, position, expiry, torch.rand(n, device=device)), form)
            written[place] = True
    slot = torch.randperm(num_slots, device=device)[:sequences]
    shared = torch.where(torch.arange(num_slots, device=device)[:, None] % 2 == 0, length // 2, 0)
    return Cache(pages, Lists(table, length, slot, shared), step[slot], written, form)


def grouped(cache, groups):
    """The rows again, so many of them a group: each but its first has that one's shared pages, and lists of its own
    length behind copies of the others."""
    columns, (table, length, slot, shared) = list(cache.pages.bytes), map(torch.clone, cache.lists[:4])
    written, page_size = cache.written_PC, cache.pages.position.shape[1]
    leaders = [sum(groups[:number]) for number, size in enumerate(groups) for _ in range(size)]
    for row, leader in enumerate(leaders):
        mine, theirs = int(slot[row]), int(slot[leader])
        if row == leader:
            shared[mine] = length[mine] * 2 // 3 if leaders.count(row) > 1 else 0
            continue
        shared[mine] = shared[theirs]
        for k in range(table.shape[1]):
            own = table[theirs, k, int(shared[theirs, k]) // page_size :].clone()
            table[mine, k] = table[theirs, k]
            table[mine, k, table.shape[2] - len(own) :] = len(written) + torch.arange(len(own), device=own.device)
            columns = [torch.cat((column, column[own.long()])) for column in columns]
            written = torch.cat((written, written[own.long()]))
            fewer = int(torch.randint(int(length[theirs, k] - shared[theirs, k]) + 1, ()))
            length[mine, k] = length[theirs, k] - fewer
            place = torch.arange(int(length[mine, k]), int(length[theirs, k]), device=own.device)
            written[table[mine, k, place // page_size].long(), place % page_size] = False
    views = [column.view(old.dtype) for column, old in zip(columns, cache.pages.tensors, strict=True)]
    pages = laid_out(Pages.of(views, len(cache.pages.scales)))
    leader = torch.tensor(leaders, device=slot.device)
    same = cache._replace(pages=pages, lists=Lists(table, length, slot, shared), written_PC=written)
    return same._replace(step_S=cache.step_S[leader]), leader


def read(cache, s):
    slot = cache.lists.slot[s]
    return read_pages(cache.pages, cache.lists.table[slot], cache.lists.length[slot], cache.form)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "form", "tolerance"),
    [
        (torch.float32, MODEL, 1e-5),
        (torch.bfloat16, MODEL, 1e-2),
        (torch.float32, FP8, 1e-5),
        (torch.float32, INT4, 1e-5),
    ],
)
@pytest.mark.parametrize(
    ("kv_heads", "group", "page_size", "features"), [(2, 3, 4, ""), (1, 1, 16, "softcap"), (3, 8, 5, "sink")]
)
def test_matches_the_dense_definition(device, reduction, dtype, form, tolerance, kv_heads, group, page_size, features):
    cache = fill(device, dtype, 5, kv_heads, page_size, 16, form=form)
    query = torch.randn(5, kv_heads * group, 16, device=device, dtype=dtype)
    softcap = 1.5 if features == "softcap" else None
    sink = torch.randn(kv_heads * group, device=device) if features == "sink" else None
    before = [read(cache, s) for s in range(5)]
    out = cache.decode(query, reduction, softcap, sink)
    for s, entries in enumerate(before):
        exact = entries._replace(key=entries.key.float(), value=entries.value.float())
        row, now = query[s][:, None].float(), cache.step_S[s : s + 1]
        expected, lse = dense_attention(
            row, exact.key, exact.value, now, exact.position, exact.expiry, 0.3, softcap, sink
        )
        assert (out[s].float() - expected[:, 0]).norm() / expected.norm() < tolerance
        after = read(cache, s)
        if reduction is not None:
            exact = reduce_columns(reduction, row, lse, now, exact, exact.expiry, 0.3, softcap, gap_rule=True)
        real, shared = entries.position <= now, cache.lists.shared[cache.lists.slot[s]][:, None]
        theirs = torch.arange(entries.position.shape[1], device=device) < shared
        for column in (3, 4):
            assert torch.equal(after[column][theirs], entries[column][theirs])
        real &= ~theirs
        assert torch.equal(after.expiry[real], exact.expiry[real])
        torch.testing.assert_close(after.statistic[real], exact.statistic[real], rtol=1e-4, atol=1e-5)


def beside(own, far, first, recent):
    """What rows of one cache see of another's lists, which are those of the same sequences and mostly stay."""
    stays = torch.rand_like(far.pages.statistic) < 0.8
    far.pages.expiry[stays] = NEVER
    slot = torch.where(own.lists.slot >= 0, far.lists.slot[: len(own.lists.slot)], -1)
    return Distant(far.pages, far.lists._replace(slot=slot), first, recent)


def later(cache, steps):
    """The same some steps later: positions and expiries, too."""
    cache.pages.position.add_(steps)
    cache.pages.expiry.add_(steps)
    return cache._replace(step_S=cache.step_S + steps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("first", "recent"), [(0, 1), (3, 9), (0, 500)])
@pytest.mark.parametrize("features", ["", "softcap", "sink"])
def test_distant_entries_are_seen_beside_a_list_in_one_softmax(device, form, first, recent, features):
    own, far = (fill(device, torch.float32, 5, 2, page_size, 16, form=form) for page_size in (4, 7))
    own = later(own, 15)
    query, softcap = torch.randn(5, 6, 16, device=device), 1.5 if features == "softcap" else None
    sink = torch.randn(6, device=device) if features == "sink" else None
    out = own.decode(query, None, softcap, sink, None, beside(own, far, first, recent))
    for s in range(5):
        mine, others, now = read(own, s), read(far, s), own.step_S[s : s + 1]
        hidden = (others.position <= first) | (others.position > now - recent)
        others = others._replace(position=others.position.masked_fill(hidden, NEVER))
        both = [torch.cat(pair, dim=1) for pair in zip(mine[:4], others[:4], strict=True)]
        expected, _ = dense_attention(query[s][:, None], *both[:2], now, *both[2:], 0.3, softcap, sink)
        torch.testing.assert_close(out[s], expected[:, 0], rtol=1e-4, atol=1e-5)


def test_garbage_behind_a_list_does_not_reach_the_output():
    cache = fill("cpu", torch.float32, 5, 2, 4, 16)
    query = torch.randn(5, 6, 16)
    expected = cache.decode(query)
    cache.pages.key[~cache.written_PC] = torch.nan
    cache.pages.position[~cache.written_PC] = 1
    assert torch.equal(cache.decode(query), expected)


@pytest.mark.parametrize("slots", [[3, -1, 0, -1], [-1, -1]])
def test_a_row_of_no_sequence_changes_nothing(slots):
    cache = fill("cpu", torch.float32, 5, 2, 4, 16)
    query, step = torch.randn(len(slots), 6, 16), torch.full((len(slots),), 50, dtype=torch.int32)
    real = [row for row, slot in enumerate(slots) if slot >= 0]
    alone, padded = cache.copy(), cache.copy()
    lists = cache.lists._replace(slot=torch.tensor(slots, dtype=torch.int64))
    out = padded._replace(lists=lists).decode(query, REDUCTIONS[1], step=step)
    assert out.isfinite().all()
    if real:
        lists = lists._replace(slot=lists.slot[real])
        expected = alone._replace(lists=lists).decode(query[real], REDUCTIONS[1], step=step[real])
        torch.testing.assert_close(out[real], expected)
    for got, expected in zip(padded.pages.tensors, alone.pages.tensors, strict=True):
        torch.testing.assert_close(got[1:], expected[1:])


@pytest.mark.parametrize("sink", [None, torch.zeros(6)])
def test_a_query_that_sees_nothing_gets_zeros(sink):
    cache = fill("cpu", torch.float32, 5, 2, 4, 16, shortest=0)
    before = copied(cache.pages)
    step = torch.full_like(cache.step_S, NEVER - 99)
    out = cache.decode(torch.randn(5, 6, 16), Reduction(5, "cache"), None, sink, step=step)
    assert not out.any()
    assert all(torch.equal(after, column) for after, column in zip(cache.pages.tensors, before.tensors, strict=True))


def check_kernel(kernel, cache, query, reduction, tolerance, softcap=None, sink=None, padding=(), leader=None):
    """The kernel, with NaN wherever there is no entry, against the definition in float32.

    A weight may come to lie on the other side of the threshold by rounding: hits are held between the hits of a
    threshold a little higher and of one a little lower.
    """
    bounds = []
    for factor in (1.001, 0.999) if reduction else (1.0,):
        exact = cache.exact()
        expected = exact.decode(
            query.float(), reduction and replace(reduction, tau=reduction.tau * factor), softcap, sink
        )
        bounds.append(exact.pages)
    poisoned, free = copied(cache.pages), ~cache.written_PC
    for numbers in poisoned.key, poisoned.value, *poisoned.scales:
        garbage = torch.nan if numbers.is_floating_point() else torch.iinfo(numbers.dtype).max
        numbers[free] = torch.full_like(numbers[free], garbage)
    poisoned.statistic[free] = -1.0
    poisoned.position[free], poisoned.expiry[free] = 1, NEVER
    slot, step, rows = cache.lists.slot, cache.step_S, torch.ones(len(query), dtype=torch.bool, device=query.device)
    for row in padding:
        slot, step, query, rows = (
            torch.cat((x[:row], x.new_full((1, *x.shape[1:]), fill), x[row:]))
            for x, fill in ((slot, -1), (step, 7), (query, torch.nan), (rows, False))
        )
    lists = cache.lists._replace(slot=slot)
    if leader is not None:
        leader = torch.cat((leader, torch.arange(len(leader), len(query), device=leader.device)))
    out = kernel(poisoned, lists, query, step, reduction, 0.3, softcap, sink, leader, form=cache.form)
    assert out.isfinite().all()
    assert (out[rows].float() - expected).norm() / expected.norm() < tolerance
    low, high = bounds[0], bounds[-1]
    written, sure = (
        cache.written_PC,
        cache.written_PC & (low.expiry == high.expiry) & ((low.statistic - high.statistic).abs() < 1e-6),
    )
    assert sure.sum() > 0.98 * written.sum()
    assert torch.equal(poisoned.expiry[sure], low.expiry[sure])
    assert (low.expiry <= poisoned.expiry)[written].all()
    assert (poisoned.expiry <= high.expiry)[written].all()
    torch.testing.assert_close(poisoned.statistic[sure], low.statistic[sure], rtol=1e-4, atol=1e-5)
    assert (poisoned.statistic[free] == -1).all()
    assert (poisoned.expiry[free] == NEVER).all()
    if reduction and reduction.threshold:
        assert (low.expiry != cache.pages.expiry).any()  # there were hits to find


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "kv_heads", "group", "page_size", "splits", "features", "reduction", "longest"),
    [
        (torch.float32, 16, 2, 1, 1, 3, "", REDUCTIONS[1], 40),
        (torch.float32, 64, 1, 3, 5, 1, "sink", Reduction(9, "cache", 0.8, 3), 200),
        (torch.float32, 256, 1, 4, 16, 40, "softcap", REDUCTIONS[2], 99),
        (torch.bfloat16, 80, 2, 4, 16, 3, "softcap", REDUCTIONS[1], 300),
        (torch.bfloat16, 128, 3, 8, 16, 2, "", None, 200),
        (torch.bfloat16, 128, 2, 1, 16, 1, "sink", REDUCTIONS[4], 1200),
        (torch.float16, 96, 1, 12, 64, 2, "sink softcap", REDUCTIONS[3], 200),
        (torch.bfloat16, 64, 2, 4, 16, 2, "", REDUCTIONS[5], 300),
        (torch.float16, 64, 2, 4, 16, 1, "sink", REDUCTIONS[6], 300),
        (torch.float32, 64, 2, 4, 16, 2, "sink", REDUCTIONS[7], 300),
        (torch.float32, 32, 2, 4, 16, 2, "", REDUCTIONS[8], 90),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_kernel(
    device, monkeypatch, form, dtype, head_dim, kv_heads, group, page_size, splits, features, reduction, longest
):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    if device == "cpu" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter cannot multiply bfloat16 matrices
    monkeypatch.setattr(decode, "choose_splits", lambda *_: splits)
    cache = fill(device, dtype, 4, kv_heads, page_size, head_dim, 0, longest, form=form)
    query = torch.randn(kv_heads * group, 4, head_dim, device=device, dtype=dtype).transpose(0, 1)
    sink = torch.randn(kv_heads * group, device=device, dtype=dtype) if "sink" in features else None
    softcap = 1.5 if "softcap" in features else None
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    check_kernel(decode.decode_attention, cache, query, reduction, tolerance, softcap, sink, padding=(0, 3))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "kv_heads", "group", "page_size", "splits", "features", "reduction", "longest", "groups"),
    [
        (torch.float32, 16, 1, 4, 4, 2, "", REDUCTIONS[1], 40, (1, 3)),
        (torch.float32, 32, 1, 3, 5, 1, "sink", Reduction(9, "cache", 0.8, 3), 70, (3, 2)),
        (torch.bfloat16, 64, 1, 1, 16, 2, "softcap", Reduction(6, "step", 2.0, 17), 300, (1, 3)),
        (torch.bfloat16, 128, 2, 4, 16, 1, "", None, 1200, (2, 4, 1)),
        (torch.float16, 64, 1, 8, 16, 2, "", REDUCTIONS[5], 150, (2,)),
        (torch.float32, 32, 1, 16, 16, 2, "", REDUCTIONS[1], 60, (1, 1)),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_of_rows_that_share(
    device, monkeypatch, form, dtype, head_dim, kv_heads, group, page_size, splits, features, reduction, longest, groups
):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    if device == "cpu" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter cannot multiply bfloat16 matrices
    monkeypatch.setattr(decode, "choose_splits", lambda *_: splits)
    torch.manual_seed(0)
    cache = fill(device, dtype, sum(groups), kv_heads, page_size, head_dim, 9, longest, form=form)
    cache, leader = grouped(cache, groups)
    assert max(groups) <= rows_at_once(group)
    query = torch.randn(sum(groups), kv_heads * group, head_dim, device=device, dtype=dtype)
    sink = torch.randn(kv_heads * group, device=device, dtype=dtype) if "sink" in features else None
    softcap = 1.5 if "softcap" in features else None
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    padding = (sum(groups), sum(groups) + 1)  # a batch's rows without a sequence come last
    check_kernel(decode.decode_attention, cache, query, reduction, tolerance, softcap, sink, padding, leader)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("sink", [None, 0.0])
def test_kernel_gives_zeros_to_a_query_that_sees_nothing(device, sink):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels.decode import decode_attention

    cache = fill(device, torch.float32, 3, 2, 4, 16, shortest=0)
    before, step = copied(cache.pages), torch.full_like(cache.step_S, NEVER - 99)
    sink_H = None if sink is None else torch.full((6,), sink, device=device)
    arguments = torch.randn(3, 6, 16, device=device), step, Reduction(5, "cache"), 0.3, None, sink_H
    assert not decode_attention(cache.pages, cache.lists, *arguments, form=MODEL).any()
    assert all(torch.equal(after, column) for after, column in zip(cache.pages.tensors, before.tensors, strict=True))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(
    ("head_dim", "kept", "group", "groups"), [(16, 10, 3, None), (80, 48, 4, None), (64, 38, 4, (1, 3))]
)
def test_kernel_reads_narrow_keys_with_queries_as_narrow(device, head_dim, kept, group, groups):
    """Definition and kernel read keys without some channels as keys that are zero there, shared ones too."""
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    cache, leader = fill(device, torch.float32, 4, 2, 16, head_dim, 0, 90), None
    if groups is not None:
        cache, leader = grouped(cache, groups)
    pages, lists, zeroed = pruned(cache.pages, cache.lists, kept, alike=groups is not None)
    narrow, wide = cache._replace(pages=pages, lists=lists), cache._replace(pages=zeroed)
    query = torch.randn(len(cache.step_S), 2 * group, head_dim, device=device)
    torch.testing.assert_close(narrow.copy().decode(query), wide.copy().decode(query))
    check_kernel(
        decode.decode_attention,
        narrow,
        query,
        REDUCTIONS[1],
        1e-5,
        padding=(2,) if groups is None else (),
        leader=leader,
    )


def in_directions(cache, dtype, head_dim, width, value_width, scale=1.0):
    """The same entries as numbers in a few directions."""
    pages, device = cache.pages, cache.step_S.device
    basis = some_basis(cache.lists.table.shape[1], head_dim, width, value_width, dtype, device, scale)
    narrow = laid_out(pages._replace(key=pages.key[..., :width], value=pages.value[..., :value_width]))
    return cache._replace(pages=narrow, lists=cache.lists._replace(basis=basis))


@pytest.mark.parametrize("device", DEVICES)
def test_directions_are_rebuilt_before_a_query_sees_them(device):
    cache = fill(device, torch.float32, 3, 2, 4, 16)
    narrow = in_directions(cache, torch.float32, 16, 6, 10, 1.2)
    basis, pages = narrow.lists.basis, cache.pages
    for s in range(len(cache.lists.table)):
        for k in range(2):
            ids = cache.lists.table[s, k].long()
            stored = (narrow.pages.key[ids].flatten(0, 1), narrow.pages.value[ids].flatten(0, 1))
            position = pages.position[ids].flatten()
            pages.key[ids] = basis.rotary.rotate(stored[0] @ basis.key[k].T, position - 1).view(pages.key[ids].shape)
            pages.value[ids] = (stored[1] @ basis.value[k].T).view(pages.value[ids].shape)
    query = torch.randn(3, 6, 16, device=device)
    torch.testing.assert_close(narrow.decode(query), cache.decode(query))


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "width", "value_width", "kv_heads", "group", "page_size", "splits", "features", "reduction",
     "groups"),
    [
        (torch.float32, 16, 6, 10, 2, 1, 1, 3, "", REDUCTIONS[1], None),
        (torch.float32, 64, 40, 64, 1, 3, 5, 1, "sink", Reduction(9, "cache", 0.8, 3), None),
        (torch.float32, 80, 48, 36, 2, 4, 16, 2, "softcap", REDUCTIONS[2], None),
        (torch.bfloat16, 128, 76, 96, 2, 4, 16, 2, "", None, None),
        (torch.float16, 96, 58, 50, 1, 12, 64, 1, "sink softcap", REDUCTIONS[3], None),
        (torch.float16, 128, 128, 128, 1, 8, 16, 2, "", REDUCTIONS[6], None),
        (torch.float32, 32, 12, 20, 1, 3, 4, 2, "", REDUCTIONS[1], (1, 3)),
        (torch.bfloat16, 128, 80, 80, 1, 4, 16, 1, "sink", Reduction(6, "step", 2.0, 17), (3, 1)),
    ],
)  # fmt: skip
def test_kernel_rebuilds_keys_and_widens_what_it_makes_of_values(
    device, monkeypatch, dtype, head_dim, width, value_width, kv_heads, group, page_size, splits, features, reduction,
    groups,
):  # fmt: skip
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    if device == "cpu" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter cannot multiply bfloat16 matrices
    monkeypatch.setattr(decode, "choose_splits", lambda *_: splits)
    torch.manual_seed(0)
    cache, leader = fill(device, dtype, sum(groups or (4,)), kv_heads, page_size, head_dim, 0, 120), None
    if groups is not None:
        cache, leader = grouped(cache, groups)
    narrow = in_directions(cache, dtype, head_dim, width, value_width)
    query = torch.randn(len(cache.step_S), kv_heads * group, head_dim, device=device, dtype=dtype)
    sink = torch.randn(kv_heads * group, device=device, dtype=dtype) if "sink" in features else None
    softcap = 1.5 if "softcap" in features else None
    tolerance = 3e-5 if dtype == torch.float32 else 1e-2
    padding = (0, 3) if groups is None else (sum(groups),)
    check_kernel(decode.decode_attention, narrow, query, reduction, tolerance, softcap, sink, padding, leader)


@pytest.mark.parametrize(("head_dim", "itemsize"), [(16, 2), (80, 2), (128, 1), (128, 2), (256, 4)])
def test_splits_and_blocks_follow_from_shapes(head_dim, itemsize):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels.decode import PROGRAMS, choose_block, choose_splits

    size = choose_block(head_dim, itemsize)
    assert size >= 16
    assert size & (size - 1) == 0
    assert choose_splits(8, 100) == choose_splits(10 * PROGRAMS, 1 << 17) == 1
    assert choose_splits(8, 1 << 20) * 8 >= PROGRAMS
    assert choose_splits(8, 1024) == 4


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("sequences", "kv_heads", "group", "longest", "reduction"),
    [
        (60, 32, 1, 1500, Reduction(256, "step", 1.0, 3)),
        (40, 8, 4, 3000, Reduction(256, "cache", 1.0, 64)),
        (1, 2, 4, 60_000, Reduction(256, "step")),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_at_size(form, sequences, kv_heads, group, longest, reduction):
    from corm_batch.ops.kernels.decode import decode_attention

    cache = fill("cuda", torch.bfloat16, sequences, kv_heads, 16, 128, 0, longest, form=form)
    query = torch.randn(sequences, kv_heads * group, 128, device="cuda", dtype=torch.bfloat16)
    check_kernel(decode_attention, cache, query, reduction, 1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
def test_a_cuda_graph_follows_lists_that_change(form):
    from corm_batch.ops.kernels import append, decode

    cache, reduction = fill("cuda", torch.float32, 6, 2, 16, 64, room=3, form=form), Reduction(9, "cache", 0.8, 3)
    exact = cache.copy()
    exact = exact._replace(lists=cache.lists._replace(length=cache.lists.length.clone()))
    query, key, value = (torch.randn(6, heads, 64, device="cuda") for heads in (8, 2, 2))
    position = torch.empty(6, 2, dtype=torch.int32, device="cuda")
    born = Entries(key, value, position, torch.empty_like(position), torch.zeros(6, 2, device="cuda"))

    def step():
        append.append_entries(cache.pages, cache.lists, born, form=form)
        return decode.decode_attention(cache.pages, cache.lists, query, cache.step_S, reduction, 0.3, form=form)

    slot, now = cache.lists.slot.clone(), cache.step_S.clone()
    cache.lists.slot.fill_(-1)  # compiling must leave no trace
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for round_ in range(3):
        for tensor in (query, key, value):
            tensor.normal_()
        cache.lists.slot.copy_(slot.roll(round_))
        if round_ == 2:
            cache.lists.slot[4:] = -1
        cache.step_S.copy_((now + 2 * round_ + 2).roll(round_))
        position.copy_(cache.step_S[:, None].expand(6, 2))
        born.expiry.copy_(position + 5)
        graph.replay()
        lists = exact.lists._replace(slot=cache.lists.slot)
        append_entries(exact.pages, lists, born, form=form)
        expected = decode_attention(exact.pages, lists, query, cache.step_S, reduction, 0.3, form=form)
        real = cache.lists.slot >= 0
        torch.testing.assert_close(out[real], expected[real], rtol=1e-4, atol=1e-4)
        assert torch.equal(cache.lists.length, exact.lists.length)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kv_heads", "group", "page_sizes", "width", "longest", "features"),
    [
        (torch.float32, 2, 3, (4, 7), 16, 40, ""),
        (torch.float16, 1, 2, (16, 5), 48, 40, "sink"),
        (torch.float32, 1, 2, (64, 96), 16, 560, "softcap"),
        (torch.bfloat16, 8, 4, (16, 24), 128, 3000, ""),
    ],
)
def test_kernel_sees_distant_entries(device, form, dtype, kv_heads, group, page_sizes, width, longest, features):
    """In one split and in several, with rows of no sequence, and where nothing is distant."""
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    own = fill(device, dtype, 3, kv_heads, page_sizes[0], width, longest=20, form=form)
    far = fill(device, dtype, 3, kv_heads, page_sizes[1], width, longest=longest, form=form)
    own.lists.slot[1] = -1
    own = later(own, longest // 2)
    query = torch.randn(3, kv_heads * group, width, device=device).to(dtype)
    softcap = 1.5 if features == "softcap" else None
    sink = torch.randn(kv_heads * group, device=device) if features == "sink" else None
    for first, recent in ((2, 3), (0, 5000)):
        arguments = query, own.step_S, None, 0.3, softcap, sink, None, beside(own, far, first, recent)
        out = decode.decode_attention(own.pages, own.lists, *arguments, form=form)
        expected = decode_attention(own.pages, own.lists, *arguments, form=form)
        real = own.lists.slot >= 0
        error = (out[real].float() - expected[real].float()).norm() / expected[real].float().norm()
        assert error < (1e-5 if dtype == torch.float32 and not form.scales else 1e-2)
        assert not out[~real].any()


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_kernel_sees_distant_entries_that_rows_share_once_for_all(device):
    pytest.importorskip("triton")
    from corm_batch.ops.kernels import decode

    own, leader = grouped(fill(device, torch.float32, 4, 2, 4, 16, shortest=3, longest=30), [3, 1])
    own.pages.expiry.fill_(999)  # every query sees some of its own list
    far, _ = grouped(fill(device, torch.float32, 4, 2, 8, 16, longest=60), [3, 1])
    own = later(own, 200)
    query, now = torch.randn(4, 4, 16, device=device), own.step_S + torch.arange(4, device=device).int() % 3
    arguments = query, now, None, 0.3, None, None, leader, beside(own, far, 2, 9)
    out = decode.decode_attention(own.pages, own.lists, *arguments, form=MODEL)
    expected = decode_attention(own.pages, own.lists, *arguments, form=MODEL)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
