"""A fixed share by attention, literally."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.propagation.attention import AttentionShare

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("pooling", [1, 5, 31])
@pytest.mark.parametrize("num_tokens", [1, 2, 67])
def test_the_highest_and_their_neighbours_and_those_that_stay(device, share, pooling, num_tokens):
    score = torch.rand(num_tokens, generator=torch.Generator().manual_seed(num_tokens))
    stay = torch.zeros(num_tokens, dtype=torch.bool)
    stay[:2] = stay[-3:] = True
    rule = AttentionShare(share=share, pooling=pooling, first=2, recent=3)
    kept = rule.keep_rows(score.to(device), stay.to(device)).cpu()
    reach = pooling // 2
    pooled = [max(score[max(0, i - reach) : i + reach + 1].tolist()) for i in range(num_tokens)]
    order = sorted(range(num_tokens), key=lambda i: (bool(stay[i]), pooled[i], i), reverse=True)
    wanted = set(order[: max(math.ceil(share * num_tokens), int(stay.sum()))])
    assert set(kept.nonzero()[:, 0].tolist()) == wanted
    assert len(wanted) == rule.fewest(num_tokens)
