"""Expected Attention against its definition: moments and rotations as dense matrices, one key at a time."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_published_policies import answer
from tests.policies.prompts import highest, layers_of

POLICY = {"name": "expected_attention", "ahead": 30, "budget": {"name": "uniform", "max_kept": 20}}


def scores_of(layer, tokens, held, pinned=4, ahead=30, covariance=True, epsilon=0.0):
    """[K][held tokens]: what queries to come are expected to give them, going by the first `tokens` queries."""
    num_heads, _, width = layer.key.shape
    group = layer.still_query.shape[0] // num_heads
    rotation = layer.rotation[tokens : tokens + ahead].mean(dim=0)
    scores = []
    for head in range(num_heads):
        weights = []
        for query in layer.still_query[head * group : (head + 1) * group, pinned:tokens]:
            mean = rotation @ query.mean(dim=0)
            spread = rotation @ torch.cov(query.T, correction=0) @ rotation.T
            key = layer.key[head, held[head]]
            logit = key @ mean / width**0.5
            if covariance:
                logit = logit + torch.diagonal(key @ spread @ key.T) / (2 * width)
            logit[torch.tensor(held[head]) < pinned] = -torch.inf
            weights.append(torch.softmax(logit, dim=0))
        norms = layer.value[head, held[head]].norm(dim=-1)
        score = (torch.stack(weights).mean(dim=0) + epsilon) * norms
        score[torch.tensor(held[head]) < pinned] = torch.inf
        scores.append(score)
    return scores


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("heads", ["gqa", "mha"])
@pytest.mark.parametrize("setting", [{}, {"covariance": False}, {"epsilon": 0.05}])
def test_exact_prefill_keeps_the_most_expected_attention(setting, heads, device, tiny_llama, tiny_llama_mha):
    folder = {"gqa": tiny_llama, "mha": tiny_llama_mha}[heads]
    prompts = random_prompts((57, 3, 35), seed=len(heads) + len(setting))
    done = answer(folder, prompts, 1, POLICY | setting, device=device)
    for prompt, one in zip(prompts, done, strict=True):
        held = [list(range(len(prompt)))] * {"gqa": 2, "mha": 4}[heads]
        for layer, kept in zip(layers_of(folder, prompt), one.kept_positions, strict=True):
            if len(prompt) <= 4:
                assert kept == (tuple(range(len(prompt))),) * len(held)
                continue
            scores = scores_of(layer, len(prompt), held, **setting)
            assert [set(head) for head in kept] == [highest(score, 20) for score in scores]


def test_streaming_goes_by_all_queries_read_and_the_entries_still_held(tiny_llama):
    prompt = random_prompts((70,), seed=5)[0]
    (done,) = answer(tiny_llama, [prompt], 1, POLICY, prefill="streaming", chunk_size=16)
    layer, held = layers_of(tiny_llama, prompt)[0], [[], []]  # the one layer that no eviction has touched
    for stop in (16, 32, 48, 64, 70):
        held = [sorted({*head, *range(stop - 16 if stop != 70 else 64, stop)}) for head in held]
        scores = scores_of(layer, stop, held)
        held = [sorted(highest(score, 20, head)) for score, head in zip(scores, held, strict=True)]
    assert [list(head) for head in done.kept_positions[0]] == held


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_an_answer_takes_the_room_of_the_prompts_lowest_scores(prefill, tiny_llama):
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 3}
    prompt = random_prompts((60,), seed=6)[0]
    (short,) = answer(tiny_llama, [prompt], 1, POLICY, **config)
    (long,) = answer(tiny_llama, [prompt], 11, POLICY, **config)
    for before, after in zip(short.kept_positions, long.kept_positions, strict=True):
        for first, last in zip(before, after, strict=True):
            assert len(last) == 20
            assert {0, 1, 2, 3, *range(60, 70)} < set(last) < {*first, *range(60, 70)}
    assert long.memory.kv_bytes_final == 4 * 5 * 4 * (2 * 16 * 4 + 12 + 4)
    assert long.memory.evicted_attention_mass is None
