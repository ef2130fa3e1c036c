"""Channels that lists store: chosen once, each sequence's own, as they were wherever it goes."""

from __future__ import annotations

import torch

from corm_batch.kv.channels import Channels
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import entry_columns
from corm_batch.storage.model import Model
from corm_batch.storage.think import Think

CPU = torch.device("cpu")
THINK = Think(share=0.5, window=2)


def make(form):
    return Channels(4, 2, 3, entry_columns(form, 8, torch.float32), form, CPU)


def test_each_sequence_of_a_pass_has_those_that_its_own_tokens_choose():
    channels, packing = make(THINK), Packing.of([5, 3], CPU)
    query, key, keep = torch.randn(6, 8, 8), torch.randn(3, 8, 8), torch.rand(3, 8) < 0.7
    channels.choose([2, 0], 1, query, key, keep, packing)
    for slot, part in ((2, slice(0, 5)), (0, slice(5, 8))):
        expected = THINK.channels(query[:, part], key[:, part], keep[:, part])
        assert torch.equal(channels.of(1, slot).long(), expected)
    assert channels.of(1, torch.tensor([2, 0])).shape == (2, 3, 4)
    assert not channels.of(1, 1).any()
    assert not channels.of(0, slice(None)).any()


def test_a_fork_has_its_reading_s_and_a_swapped_sequence_its_own():
    channels = make(THINK)
    channels.choose([1], 0, torch.randn(3, 9, 8), torch.randn(3, 9, 8), torch.ones(3, 9).bool(), Packing.of([9], CPU))
    expected = channels.of(0, 1).clone()
    channels.fork(3, 1)
    saved = channels.save(1)
    channels.fork(1, 0)
    channels.restore(2, saved)
    assert torch.equal(channels.of(0, 3), expected)
    assert torch.equal(channels.of(0, 2), expected)


def test_a_form_that_stores_all_has_none():
    channels = make(Model())
    channels.fork(1, 0)
    channels.restore(1, channels.save(0))
    assert channels.of(0, 1) is None
