"""Rows of a pass that leave, and how those that vote count the ones that are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.engine.rows import PackedRows
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from corm_batch.ops.select import select_ops
from corm_batch.storage.model import Model

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def of_which_some_are_there(lengths, starts, there, device):
    """Spans of so many tokens behind so many others, of which those of these places are there."""
    positions = torch.cat([torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
    rows, stay = PackedRows(lengths, positions.to(device)), torch.zeros(sum(lengths), dtype=torch.bool)
    for start, places in zip(np.cumsum([0, *lengths]), there, strict=False):
        stay[start + places] = True
    rows.leave(stay.to(device), torch.tensor(np.cumsum(lengths) - 1, device=device))
    return rows.part(0, len(lengths))


def test_rows_that_leave_are_those_of_no_later_layer_and_logits_follow():
    positions = torch.cat([torch.arange(n) for n in (4, 1, 5)])
    rows = PackedRows([4, 1, 5], positions)
    logit_rows = torch.tensor([3, 4, 8, 9])
    first, *parts = logit_rows.split(1)
    assert [rows.of(number) for number in range(3)] == [slice(0, 4), slice(4, 5), slice(5, 10)]
    rows.leave(torch.ones(10, dtype=torch.bool), logit_rows)
    assert rows.left is None
    rows.leave(torch.tensor([1, 0, 0, 1, 1, 0, 1, 0, 1, 1]).bool(), logit_rows)
    assert [rows.of(number) for number in range(3)] == [slice(0, 2), slice(2, 3), slice(3, 6)]
    assert rows.left.tolist() == [0, 3, 4, 6, 8, 9]
    assert rows.step_R.tolist() == [1, 4, 1, 2, 4, 5]
    assert [int(part) for part in (first, *parts)] == [1, 2, 4, 5], "the head has been given these very tensors"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("window", [5, 40])
def test_a_window_is_as_many_queries_as_are_there(device, window):
    """A chunk of 60 tokens of which 22 are there, behind entries of the chunks before: token by token, with votes."""
    draw, start, stop = torch.Generator().manual_seed(window), 30, 90
    step = (torch.randperm(stop - start, generator=draw)[:22].sort().values + start + 1).int()
    step[-1] = stop
    position = torch.cat((torch.tensor([1, 2, 9, 30]).int(), step)).expand(2, -1).contiguous()
    query, key = (torch.randn(heads, size, 16, generator=draw) * 3 for heads, size in ((4, 22), (2, 26)))
    old = torch.tensor([[start + 1, start + 9, NEVER, start + 30]] * 2, dtype=torch.int32)
    part = of_which_some_are_there([stop - start], [start], [step - start - 1], device)
    counted = part.count_R.cpu()
    assert counted.tolist() == list(range(stop - 21, stop + 1))
    entries = Entries(key, key, position, torch.cat((old, (counted + 3).expand(2, -1)), dim=1), torch.zeros(2, 26))
    scores = torch.einsum("kgrd,knd->kgrn", query.view(2, 2, 22, 16), key) * 0.3
    scores.masked_fill_(position[:, None, None] > step[:, None], -torch.inf)
    lse = scores.logsumexp(-1)
    weight = (scores - lse[..., None]).exp().amax(dim=1)

    # literally: how many of the queries that are there an entry has still to live
    left = torch.cat((old.long() - start, torch.full((2, 22), 3)), dim=1)
    left[:, 2] = NEVER
    for row in range(22):
        for k in range(2):
            for n in range(26):
                if position[k, n] > step[row]:
                    continue
                age = 1 if n < 4 or position[k, n] < step[row] else 0
                left[k, n] -= age
                if left[k, n] >= 0 and weight[k, row, n] >= 2.0 / counted[row]:
                    left[k, n] = max(int(left[k, n]), window)
    expiry = torch.where(left > stop, NEVER, left + stop)

    reduction = Reduction(window, "step", 2.0)
    where, never = Packing.of([26], torch.device(device)), torch.full_like(position, NEVER).to(device)
    seen, last = part.counted(entries.map(lambda x: x.to(device)), never, where)
    voted = select_ops(torch.device(device), Model()).reduce_columns(
        reduction, query.to(device), lse.flatten(0, 1).to(device), part.count_R, seen, last, 0.3, gap_rule=True
    )
    alive = voted.expiry.cpu() >= stop
    assert torch.equal(alive, expiry >= stop)
    assert torch.equal(voted.expiry.cpu()[alive], expiry[alive].int())
    assert alive.any()
    assert not alive.all()


@pytest.mark.parametrize("device", DEVICES)
def test_entries_whose_ends_are_fixed_are_seen_as_long_as_attention_saw_them(device):
    """Three spans: 11 to 20 behind one entry, 1 to 5 behind none, 6 to 9 behind two of which one is none."""
    there = [torch.tensor([0, 3, 9]), torch.tensor([1, 4]), torch.tensor([3])]
    part = of_which_some_are_there([10, 5, 4], [10, 0, 5], there, device)
    assert part.count_R.tolist() == [18, 19, 20, 4, 5, 9]
    where = Packing.of([4, 2, 3], torch.device(device))
    position = torch.tensor([[3, 11, 14, 20, 2, 5, 4, NEVER, 9]], dtype=torch.int32, device=device)
    last = torch.tensor([[13, 14, 19, NEVER, 2, 9, 8, 7, 9]], dtype=torch.int32, device=device)
    entries = Entries(position[..., None].float(), position[..., None].float(), position, last, position.float())
    seen, until = part.counted(entries, last, where)
    assert seen.position.tolist() == [[3, 18, 19, 20, 4, 5, 4, NEVER, 9]]
    assert seen.expiry.tolist() == [[20, 14, 19, NEVER, 2, 9, 11, 10, 9]]
    assert until.tolist() == [[18, 19, 19, 20, 4, 5, 8, 8, 9]]
