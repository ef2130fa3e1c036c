"""Kept positions of the engine against the literal algorithm, per layer and kv head."""

from __future__ import annotations

import random

import pytest

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from tests.oracle import Oracle

SETTINGS = {
    "paper": {"window": 16, "recent": 16},
    "window>recent": {"window": 24, "recent": 5},
    "window<recent": {"window": 6, "recent": 21},
    "tau": {"window": 12, "recent": 12, "tau": 2.5},
    "cache": {"window": 12, "recent": 8, "tau": 1.5, "threshold": "cache"},
    "bound": {"window": 16, "recent": 8, "max_kept": 23},
    "reach": {"window": 12, "recent": 6, "tau": 3.0, "reach": 2},
    "one": {"window": 1, "recent": 1, "tau": 0.5},
}
EXACT = list(zip(SETTINGS, ["gqa", "mha"] * 4, strict=True))
STREAMING = list(zip(SETTINGS, ["mha", "gqa"] * 4, strict=True))  # the other way about: each setting sees both


def answer(folder, prompts, new_tokens, settings, **config):
    """Completions by the prompt's number, of CORM or of the policy that the settings name."""
    policy = settings if "name" in settings else {"name": "corm", "preset": "paper", **settings}
    if "max_kept" in policy:
        policy["budget"] = {"name": "uniform", "max_kept": policy.pop("max_kept")}
    engine = Engine.from_pretrained(folder, policy=policy, dtype="float32", device="cpu", kv_memory="8MiB", **config)
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    requests = [Request(str(i), p, sampling, return_kept_positions=True) for i, p in enumerate(prompts)]
    return {completion.id: completion for completion in engine.run(requests)}


def compare(completion, oracle):
    """Assert the same entries, close calls apart; how many entries the two hold."""
    held = 0
    for layer, heads in enumerate(completion.kept_positions):
        for head, kept in enumerate(heads):
            assert list(kept) == sorted(set(kept))
            different = set(kept) ^ oracle.kept(layer, head)
            assert different <= oracle.close_calls(layer, head), (layer, head, different)
            held += len(kept)
    return held


def random_prompts(lengths, seed):
    draw = random.Random(seed)
    return [[draw.randrange(199) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize(("name", "heads"), EXACT)
def test_exact_prefill_and_decode(name, heads, tiny_llama, tiny_llama_mha):
    folder = {"gqa": tiny_llama, "mha": tiny_llama_mha}[heads]
    prompts = random_prompts((48, 1, 20), seed=len(name + heads))
    completions = answer(folder, prompts, 18, SETTINGS[name], compact_every=1)
    evicted = 0
    for i, prompt in enumerate(prompts):
        completion = completions[str(i)]
        fed = prompt + list(completion.token_ids[:-1])
        oracle = Oracle(**SETTINGS[name], evict_from=len(prompt)).run(folder, fed)
        held = compare(completion, oracle)
        assert completion.memory.evicted_entries == len(fed) * 2 * {"gqa": 2, "mha": 4}[heads] - held
        evicted += completion.memory.evicted_entries
    assert evicted > 0


@pytest.mark.parametrize(("name", "heads"), STREAMING)
def test_streaming_with_chunks_of_one_token(name, heads, tiny_llama, tiny_llama_mha):
    folder = {"gqa": tiny_llama, "mha": tiny_llama_mha}[heads]
    prompt = random_prompts((60,), seed=len(name))[0]
    completion = answer(folder, [prompt], 6, SETTINGS[name], prefill="streaming", chunk_size=1, compact_every=1)["0"]
    oracle = Oracle(**SETTINGS[name]).run(folder, prompt + list(completion.token_ids[:-1]))
    assert compare(completion, oracle) == 65 * 2 * {"gqa": 2, "mha": 4}[heads] - completion.memory.evicted_entries
    assert completion.memory.evicted_entries > 0


def test_compaction_seldom_or_often_keeps_the_same(tiny_llama):
    prompts = random_prompts((60, 20), seed=5)
    often, seldom = (answer(tiny_llama, prompts, 50, SETTINGS["paper"], compact_every=n) for n in (1, 37))
    for name, completion in often.items():
        assert completion.token_ids == seldom[name].token_ids
        assert completion.kept_positions == seldom[name].kept_positions
        assert completion.memory.kv_bytes_peak <= seldom[name].memory.kv_bytes_peak


@pytest.mark.parametrize("chunk", [7, 16, 64])
def test_larger_chunks_stay_close_to_one_token_at_a_time(chunk, tiny_llama):
    """Inside a chunk attention still sees keys that have expired by then; the gap rule bounds what that changes."""
    prompt = random_prompts((160,), seed=chunk)[0]
    settings = {"window": 16, "recent": 16}
    completion = answer(tiny_llama, [prompt], 1, settings, prefill="streaming", chunk_size=chunk)["0"]
    oracle = Oracle(**settings).run(tiny_llama, prompt)
    pairs = [(layer, head) for layer in range(2) for head in range(2)]
    ours = {(i, j, p) for i, j in pairs for p in completion.kept_positions[i][j]}
    literal = {(i, j, p) for i, j in pairs for p in oracle.kept(i, j)}
    assert len(ours & literal) / len(ours | literal) > 0.8
    assert 0.8 < len(ours) / len(literal) < 1.25
