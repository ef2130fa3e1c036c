"""What the policies that rank by a score keep, against their definitions on transformers' own attention weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool1d, max_pool1d
from transformers import AutoModelForCausalLM

from tests.engine.test_corm_oracle import answer, random_prompts
from tests.oracle import Oracle

NUM_LAYERS, NUM_HEADS = 2, 4


def attention_weights(folder, prompt, kv_heads):
    """[L, K, G, T, T] of a whole prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        weights = model(torch.tensor([prompt]), output_attentions=True).attentions
    return torch.stack(weights)[:, 0].unflatten(1, (kv_heads, NUM_HEADS // kv_heads))


def best(score, max_kept, recent):
    """0-based indices of the newest `recent` and the highest scores, the newer of two equal ones."""
    order = sorted(range(len(score)), key=lambda i: (i >= len(score) - recent, float(score[i]), i))
    return set(order[-max_kept:])


def h2o_score(weights_GTT):
    return weights_GTT.mean(dim=0).sum(dim=0)


def scissorhands_score(weights_GTT):
    length = weights_GTT.shape[-1]
    step = torch.arange(1, length + 1)
    low = (weights_GTT < 1 / step[:, None]).all(dim=0) & torch.ones(length, length).tril().bool()
    return 1 - low.sum(dim=0) / (length - step + 1)


def h2o_score_by_age(weights_GTT):
    return h2o_score(weights_GTT) / torch.arange(weights_GTT.shape[-1], 0, -1)


def snapkv_score(weights_GTT, statistic="sum", pool=max_pool1d):
    rows = weights_GTT[:, -6:]
    own = {
        "sum": rows.mean(dim=0).sum(dim=0),
        "sum_squares": rows.square().mean(dim=0).sum(dim=0),
        "max": rows.amax(dim=(0, 1)),
    }[statistic]
    return pool(own[None, None], 3, stride=1, padding=1)[0, 0]


SCORES = {
    "h2o": ({"name": "h2o", "max_kept": 20, "recent": 5}, h2o_score),
    "scissorhands": ({"name": "scissorhands", "max_kept": 20, "recent": 5}, scissorhands_score),
    "h2o by age": ({"name": "h2o", "max_kept": 20, "recent": 5, "by_age": True}, h2o_score_by_age),
    "snapkv mean": (
        {"name": "snapkv", "max_kept": 20, "recent": 5, "window": 6, "pooling": 3, "pooled": "mean"},
        lambda weights: snapkv_score(weights, pool=avg_pool1d),
    ),
} | {
    f"snapkv {statistic}": (
        {"name": "snapkv", "max_kept": 20, "recent": 5, "window": 6, "pooling": 3, "statistic": statistic},
        lambda weights, statistic=statistic: snapkv_score(weights, statistic),
    )
    for statistic in ("sum", "sum_squares", "max")
}


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("name", SCORES)
def test_exact_prefill_keeps_the_highest_scores(name, kv_heads, tiny_llama, tiny_llama_mha):
    folder = {2: tiny_llama, 4: tiny_llama_mha}[kv_heads]
    policy, score = SCORES[name]
    prompt = random_prompts((57,), seed=kv_heads)[0]
    kept = answer(folder, [prompt], 1, policy)["0"].kept_positions
    weights = attention_weights(folder, prompt, kv_heads)
    for layer in range(NUM_LAYERS):
        for head in range(kv_heads):
            assert set(kept[layer][head]) == best(score(weights[layer, head]), 20, 5)


class ScoringOracle(Oracle):
    """Token by token: every query adds to the scores, and whenever a head holds too many the lowest leaves."""

    def __init__(self, low, by_age, max_kept, recent):
        super().__init__(window=1, recent=recent)
        self.low, self.by_age, self.most = low, by_age, max_kept

    def one_head(self, layer, head, held, query, key, value, scale):
        t = self.step
        held = held or {"k": torch.zeros(0, len(key)), "v": torch.zeros(0, len(value)), "p": [], "s": torch.zeros(0)}
        keys, values = torch.cat((held["k"], key[None])), torch.cat((held["v"], value[None]))
        positions, score = [*held["p"], t], torch.cat((held["s"], torch.zeros(1)))
        attention = torch.softmax(query @ keys.T * scale, dim=-1)
        score = score + ((attention < 1 / t).all(0).float() if self.low else attention.mean(0))
        age = t + 1 - torch.tensor(positions)
        order = 1 - score / age if self.low else score / age if self.by_age else score
        stay = list(range(len(positions)))
        while len(stay) > self.most:
            old = [i for i in stay if positions[i] <= t - self.recent]
            stay.remove(min(old, key=lambda i: (float(order[i]), positions[i])))
        held = {"k": keys[stay], "v": values[stay], "p": [positions[i] for i in stay], "s": score[stay]}
        return attention @ values, held


@pytest.mark.parametrize("name", ["h2o", "h2o by age", "scissorhands"])
def test_streaming_by_tokens_and_decoding_follow_the_algorithm_to_the_letter(name, tiny_llama):
    prompt = random_prompts((60,), seed=len(name))[0]
    policy = SCORES[name][0]
    done = answer(tiny_llama, [prompt], 12, policy, prefill="streaming", chunk_size=1, compact_every=1)["0"]
    oracle = ScoringOracle(name == "scissorhands", name == "h2o by age", max_kept=20, recent=5)
    oracle.run(tiny_llama, prompt + list(done.token_ids[:-1]))
    for layer in range(NUM_LAYERS):
        for head in range(2):
            assert set(done.kept_positions[layer][head]) == oracle.kept(layer, head)


def test_streaming_snapkv_scores_by_the_newest_queries_of_each_chunk_alone(tiny_llama):
    """Whatever the first chunk's queries gave an entry is forgotten when the second has been read."""
    policy = SCORES["snapkv sum"][0] | {"max_kept": 40}
    prompt = random_prompts((60,), seed=3)[0]
    # 30 + 30 - 40: one eviction
    done = answer(tiny_llama, [prompt], 1, policy, prefill="streaming", chunk_size=30)["0"]
    weights = attention_weights(tiny_llama, prompt, 2)
    for head in range(2):  # of the first layer, whose keys and queries no eviction has touched
        assert set(done.kept_positions[0][head]) == best(snapkv_score(weights[0, head]), 40, 5)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_the_bound_holds_and_what_left_is_accounted_for(name, prefill, tiny_llama):
    policy = SCORES[name][0]
    prompt = random_prompts((90,), seed=1)[0]
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 4}
    memory = answer(tiny_llama, [prompt], 9, policy, **config)["0"].memory
    assert all(kept <= 2 * (20 + 4) for kept in memory.kept_per_layer)
    assert memory.evicted_entries == (90 + 8) * 2 * 2 - sum(memory.kept_per_layer)
    if policy["name"] == "scissorhands" or policy.get("statistic", "sum") != "sum":
        assert memory.evicted_attention_mass is None
    else:
        assert 0 < memory.evicted_attention_mass < 1
