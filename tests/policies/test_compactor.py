"""Compactor against its definition: leverage by an inverse, attention part by part."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_published_policies import answer
from tests.policies.prompts import highest, layers_of

POLICY = {
    "name": "compactor", "pin_first": 3, "recent": 2, "chunk": 10, "sketch": 12,
    "budget": {"name": "uniform", "max_kept": 20},
}  # fmt: skip


def standard(scores):
    flat = torch.cat(scores)
    return [(score - flat.mean()) / flat.std() for score in scores]


def leverage(layer, index, held):
    """Of the held tokens of each head, among them."""
    num_heads, _, width = layer.key.shape
    draw = torch.Generator().manual_seed(index)
    sketch = torch.randn(num_heads, width, 12, generator=draw) / 12**0.5
    found = []
    for head in range(num_heads):
        key = layer.still_key[head, held[head]]
        x = ((key - key.mean(dim=0)) @ sketch[head]).double()
        found.append(torch.diagonal(x @ torch.inverse(x.T @ x + 0.01 * torch.eye(12)) @ x.T).float())
    return found


def attention(layer, first, last):
    """[K, last - first]: tokens `first` to `last` - 1 in parts of ten, all of a part attending to all of it."""
    num_heads = layer.key.shape[0]
    group = layer.still_query.shape[0] // num_heads
    tokens = torch.arange(first, last)
    query = torch.einsum("tij,htj->hti", layer.rotation[first:last], layer.still_query[:, first:last])
    found = torch.zeros(num_heads, last - first)
    for head in range(num_heads):
        for part in tokens.split(10):
            for one in range(group):
                logits = query[head * group + one, part - first] @ layer.key[head, part].T
                found[head, part - first] += torch.softmax(logits, dim=-1).sum(dim=0) / group
        weighed = torch.nn.functional.pad(found[head] * layer.value[head, first:last].norm(dim=-1), (1, 1))
        found[head] = (weighed[:-2] + weighed[1:-1] + weighed[2:]) / 3
    return found


def blended(lever, attended):
    return [0.35 * one + other for one, other in zip(standard(lever), standard(attended), strict=True)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("heads", ["gqa", "mha"])
def test_exact_prefill_keeps_the_highest_of_both_scores_together(heads, device, tiny_llama, tiny_llama_mha):
    folder, num_heads = {"gqa": (tiny_llama, 2), "mha": (tiny_llama_mha, 4)}[heads]
    prompts = random_prompts((67, 4, 33, 6), seed=num_heads)
    for prompt, one in zip(prompts, answer(folder, prompts, 1, POLICY, device=device), strict=True):
        if len(prompt) <= 20:
            assert one.memory.evicted_entries == 0
            continue
        first, last = 3, len(prompt) - 2
        for index, (layer, kept) in enumerate(zip(layers_of(folder, prompt), one.kept_positions, strict=True)):
            held = [list(range(first, last))] * num_heads
            scores = blended(leverage(layer, index, held), list(attention(layer, first, last)))
            pinned = {*range(first), last, last + 1}
            assert [set(head) for head in kept] == [highest(score, 15, held[0]) | pinned for score in scores]


def test_streaming_takes_attention_by_chunks_and_leverage_among_what_is_held(tiny_llama):
    prompt = random_prompts((70,), seed=5)[0]
    (done,) = answer(tiny_llama, [prompt], 1, POLICY, prefill="streaming", chunk_size=16)
    layer = layers_of(tiny_llama, prompt)[0]  # the one that no eviction has touched
    held, attended = [[], []], [{}, {}]
    for start, stop in ((0, 16), (16, 32), (32, 48), (48, 64), (64, 70)):
        first, last = max(3, start), stop - 2 if stop == 70 else stop
        found = attention(layer, first, last)
        for head in range(2):
            attended[head] |= {token: found[head, token - first] for token in range(first, last)}
            held[head] = sorted({*held[head], *range(start, stop)})
        scored = [[token for token in head if 3 <= token < last] for head in held]
        given = [torch.stack([attended[head][token] for token in tokens]) for head, tokens in enumerate(scored)]
        scores = blended(leverage(layer, 0, scored), given)
        for head in range(2):
            pinned = {0, 1, 2, stop - 2, stop - 1}
            rest = [(score, token) for score, token in zip(scores[head].tolist(), scored[head], strict=True)]
            rest = sorted(one for one in rest if one[1] not in pinned)
            held[head] = sorted(pinned | {token for _, token in rest[-15:]})
    assert [list(head) for head in done.kept_positions[0]] == held


def test_an_answer_takes_the_room_of_the_prompts_lowest_scores(tiny_llama):
    prompt = random_prompts((60,), seed=6)[0]
    short, long = (answer(tiny_llama, [prompt], count, POLICY, compact_every=3)[0] for count in (1, 11))
    for before, after in zip(short.kept_positions, long.kept_positions, strict=True):
        for first, last in zip(before, after, strict=True):
            assert len(last) == 20
            assert {0, 1, 2, *range(60, 70)} < set(last) < {*first, *range(60, 70)}
    assert long.memory.kv_bytes_final == 4 * 5 * 4 * (2 * 16 * 4 + 12 + 8)
