"""The fewest blocks that hold a share of the attention, literally."""

from __future__ import annotations

import pytest
import torch

from corm_batch.propagation.cumulative import CumulativeAttention

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("coverage", [0.05, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("num_tokens", [1, 8, 67])
def test_the_fewest_blocks_that_hold_the_share(device, coverage, num_tokens):
    score = torch.rand(num_tokens, generator=torch.Generator().manual_seed(3)) ** 9
    score[40:48] = 0.0  # a block of nothing is not needed for all of it
    stay = torch.zeros(num_tokens, dtype=torch.bool)
    stay[-2:] = True
    rule = CumulativeAttention(coverage=coverage, block=8)
    kept = rule.keep_rows(score.to(device), stay.to(device)).cpu()
    blocks = {start: score[start : start + 8].double().sum().item() for start in range(0, num_tokens, 8)}
    wanted, held = set(torch.arange(num_tokens)[stay].tolist()), 0.0
    for start in sorted(blocks, key=blocks.get, reverse=True):
        if held >= coverage * sum(blocks.values()) * (1 - 1e-12):
            break
        held += blocks[start]
        wanted |= set(range(start, min(start + 8, num_tokens)))
    assert set(kept.nonzero()[:, 0].tolist()) == wanted
    assert rule.fewest(num_tokens) <= max(len(wanted), 132)
    assert rule.fewest(1000) == 132


def test_no_attention_at_all_leaves_those_that_stay():
    stay = torch.tensor([True, False, False, True])
    assert torch.equal(CumulativeAttention(block=2).keep_rows(torch.zeros(4), stay), stay)
