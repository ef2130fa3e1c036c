"""L2 norm, StreamingLLM, TOVA, KeyDiff and the budgets against literal definitions: in exact prefill on the attention
weights and keys that transformers computes, and token by token."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from tests.engine.test_corm_oracle import random_prompts
from tests.oracle import Oracle

BUDGET = {"name": "uniform", "max_kept": 20}


def answer(folder, prompts, new_tokens, policy, **config):
    """The engine with nothing in it, and the completions by the prompt's number."""
    fields = {"dtype": "float32", "device": "cpu", "kv_memory": "8MiB", "page_size": 4, **config}
    engine = Engine.from_pretrained(folder, policy=policy, **fields)
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    requests = [Request(str(i), p, sampling, return_kept_positions=True) for i, p in enumerate(prompts)]
    done = [completion for completion in engine.run(requests)]
    assert [one.error for one in done] == [None] * len(done)
    assert engine.pool_bytes_used == 0
    return sorted(done, key=lambda one: one.id)


def seen_by_transformers(folder, prompt):
    """Attention weights [L, K, G, T, T] and rotated keys [L, K, T, D] of a whole prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        run = model(torch.tensor([prompt]), output_attentions=True, use_cache=True)
    keys = torch.stack([layer.keys[0] for layer in run.past_key_values.layers])
    return torch.stack(run.attentions)[:, 0].unflatten(1, (keys.shape[1], -1)), keys


def l2_norm(weights_GN, key_ND):
    return -key_ND.norm(dim=-1)


def keydiff(weights_GN, key_ND):
    anchor = normalize(key_ND, dim=-1).mean(dim=0)
    return -(normalize(key_ND, dim=-1) @ normalize(anchor, dim=0))


def newest_query(weights_GN, key_ND):
    return weights_GN.mean(dim=0)


SCORES = {
    "l2_norm": ({"name": "l2_norm", "skip_layers": [0], "recent": 0, "budget": BUDGET}, l2_norm),
    "l2_norm recent": ({"name": "l2_norm", "skip_layers": [], "recent": 6, "budget": BUDGET}, l2_norm),
    "keydiff": ({"name": "keydiff", "recent": 0, "budget": BUDGET}, keydiff),
    "tova": ({"name": "tova", "budget": BUDGET}, newest_query),
}


def chosen(policy, layer, scores, most):
    """0-based: the newest `recent` and the highest scores of each head, as many as it may hold."""
    if policy["name"] == "tova":
        scores = [torch.stack(scores).mean(dim=0)] * len(scores)
    kept = []
    for score, count in zip(scores, most, strict=True):
        recent = len(score) - policy.get("recent", 0)
        order = sorted(range(len(score)), key=lambda i: (i >= recent, float(score[i]), i))
        kept.append(set(order) if layer in policy.get("skip_layers", ()) else set(order[-count:]))
    return kept


@pytest.mark.parametrize("name", SCORES)
def test_exact_prefill_keeps_the_highest_scores(name, tiny_llama):
    policy, score = SCORES[name]
    prompt = random_prompts((57,), seed=1)[0]
    (done,) = answer(tiny_llama, [prompt], 1, policy)
    weights, keys = seen_by_transformers(tiny_llama, prompt)
    for layer in range(2):
        scores = [score(weights[layer, head, :, -1], keys[layer, head]) for head in range(2)]
        assert [set(head) for head in done.kept_positions[layer]] == chosen(policy, layer, scores, (20, 20))
    held = sum(-(-len(head) // 4) for layer in done.kept_positions for head in layer)
    assert done.memory.kv_bytes_final == held * 4 * (2 * 16 * 4 + 12 + 4 * (policy["name"] == "l2_norm"))
    assert done.memory.evicted_attention_mass is None


class LayerOracle(Oracle):
    """Token by token, a whole layer at a time: whenever heads hold too much, the lowest scores leave."""

    def __init__(self, policy, score, most=(20, 20)):
        super().__init__(window=1, recent=1)
        self.policy, self.score, self.most = policy, score, most

    def attend(self, layer, query, key, value, scale):
        outs, scores, group = [], [], query.shape[0] // key.shape[0]
        for head in range(key.shape[0]):
            held = self.heads.setdefault((layer, head), {"k": key[:0, 0], "v": value[:0, 0], "p": []})
            held["k"] = torch.cat((held["k"].view(-1, key.shape[1]), key[head : head + 1]))
            held["v"] = torch.cat((held["v"].view(-1, key.shape[1]), value[head : head + 1]))
            held["p"] = [*held["p"], self.step]
            weights = torch.softmax(query[head * group : (head + 1) * group] @ held["k"].T * scale, dim=-1)
            scores.append(self.score(weights, held["k"]))
            outs.append(weights @ held["v"])
        for head, kept in enumerate(chosen(self.policy, layer, scores, self.most)):
            held, stay = self.heads[layer, head], sorted(kept)
            self.heads[layer, head] = {"k": held["k"][stay], "v": held["v"][stay], "p": [held["p"][i] for i in stay]}
        return torch.cat(outs)


@pytest.mark.parametrize("name", SCORES)
def test_streaming_by_tokens_and_decoding_follow_the_algorithm_to_the_letter(name, tiny_llama):
    policy, score = SCORES[name]
    prompt = random_prompts((45,), seed=len(name))[0]
    (done,) = answer(tiny_llama, [prompt], 12, policy, prefill="streaming", chunk_size=1, compact_every=1)
    oracle = LayerOracle(policy, score).run(tiny_llama, prompt + list(done.token_ids[:-1]))
    for layer in range(2):
        for head in range(2):
            assert set(done.kept_positions[layer][head]) == oracle.kept(layer, head)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_streaming_llm_keeps_the_sinks_and_the_newest(prefill, tiny_llama):
    policy = {"name": "streaming_llm", "sinks": 3, "recent": 11}
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 1}
    done = answer(tiny_llama, random_prompts((70, 9, 2), seed=2), 6, policy, **config)
    for one, length in zip(done, (70, 9, 2), strict=True):
        fed = length + 5
        # what the next query may see beside itself
        wanted = [i for i in range(fed) if i < 3 or i > fed - 11]
        assert all(list(head) == wanted for layer in one.kept_positions for head in layer)
        assert one.memory.evicted_entries == 4 * (fed - len(wanted))
        assert (one.memory.evicted_attention_mass is None) == (fed > len(wanted))


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_pyramidkv_frees_more_pages_in_later_layers(prefill, tiny_llama):
    policy = {"name": "h2o", "recent": 4, "budget": {"name": "pyramidkv", "max_kept": 24, "beta": 4.0}}
    (done,) = answer(tiny_llama, random_prompts((120,), seed=3), 1, policy, prefill=prefill, chunk_size=32)
    assert [[len(head) for head in layer] for layer in done.kept_positions] == [[39, 39], [9, 9]]
    assert done.memory.kv_bytes_final == 2 * (10 + 3) * 4 * (2 * 16 * 4 + 12)


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.9])
def test_adakv_shares_a_layer_by_score(floor, tiny_llama):
    budget = {"name": "adakv", "max_kept": 20, "floor": floor}
    policy = {"name": "snapkv", "recent": 4, "window": 1, "pooling": 1, "budget": budget}
    prompt = random_prompts((57,), seed=4)[0]
    (done,) = answer(tiny_llama, [prompt], 1, policy)
    weights, _ = seen_by_transformers(tiny_llama, prompt)
    uneven = 0
    for layer in range(2):
        scores = weights[layer, :, :, -1].mean(dim=1)
        scores[:, -4:] = torch.inf
        for head in range(2):
            scores[head, scores[head].topk(int(20 * floor)).indices] = torch.inf
        top = scores.flatten().topk(40).indices // 57
        most = [int((top == head).sum()) for head in range(2)]
        assert [set(head) for head in done.kept_positions[layer]] == chosen(policy, layer, list(scores), most)
        uneven += most[0] != most[1]
        assert sum(most) == 40
    assert uneven
    assert sum(done.memory.kept_per_layer) <= 2 * 40


@pytest.mark.parametrize("name", ["adakv", "headkv"])
def test_what_heads_may_hold_together_is_not_exceeded_however_a_document_is_read(name, tiny_llama):
    scores = {"scores": [[3.0, 1.0], [0.5, 0.5]]} if name == "headkv" else {}
    policy = {"name": "h2o", "recent": 4, "budget": {"name": name, "max_kept": 16, **scores}}
    config = {"prefill": "streaming", "chunk_size": 13, "compact_every": 2}
    done = answer(tiny_llama, random_prompts((90, 40, 77), seed=5), 9, policy, **config)
    for one in done:
        counts = [[len(head) for head in layer] for layer in one.kept_positions]
        assert sum(map(sum, counts)) <= 4 * 16
        assert all(set(range(fed - 4, fed)) <= set(head) for fed in (len(one.token_ids) - 1 + one.memory.prompt_tokens,)
                   for layer in one.kept_positions for head in layer)  # fmt: skip
        assert counts[0][0] != counts[0][1]
        if name == "headkv":
            assert counts[0] == [30, 14]


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_a_share_of_the_document_is_what_heads_hold_of_each(prefill, tiny_llama):
    policy = {"name": "h2o", "recent": 4, "budget": {"name": "uniform", "max_kept": 0.3}}
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 1}
    lengths = (70, 9, 2)
    for one, length in zip(
        answer(tiny_llama, random_prompts(lengths, seed=6), 6, policy, **config), lengths, strict=True
    ):
        fed = length + 5
        assert {len(head) for layer in one.kept_positions for head in layer} == {min(fed, max(4, math.ceil(0.3 * fed)))}


@pytest.mark.parametrize("name", ["expected_attention", "compactor"])
def test_an_answer_longer_than_the_budget_leaves_no_head_empty(name, tiny_llama):
    policy = {"name": name, "pin_first": 0, "budget": {"name": "adakv", "max_kept": 12, "floor": 0.0}}
    (done,) = answer(tiny_llama, random_prompts((60,), seed=7), 60, policy, compact_every=1)
    for layer in done.kept_positions:
        counts = [len(head) for head in layer]
        assert sum(counts) == 24
        assert max(counts) - min(counts) <= 1
