"""FastGen against its definition: five sets a head, the first that holds enough of its attention."""

from __future__ import annotations

import math

import pytest

from corm_batch.policies.fastgen import FastGen
from corm_batch.policies.model import Model, Vocabulary
from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_published_policies import answer
from tests.policies.prompts import layers_of

SPECIAL, SIGNS = tuple(range(0, 199, 7)), tuple(range(1, 199, 5))
POLICY = {"name": "fastgen", "special_ids": SPECIAL, "punctuation_ids": SIGNS, "frequency": 0.2, "local": 0.25}


def kept_by(layer, head, prompt, recovery, fed):
    """0-based tokens, and which of the five rules it was."""
    length = len(prompt)
    group = layer.weight.shape[0] // layer.key.shape[0]
    weight = layer.weight[head * group : (head + 1) * group].mean(dim=0)  # [T, T]
    window, mass = math.ceil(0.25 * length), weight.sum(dim=0).tolist()
    special = {i for i, token in enumerate(prompt) if token in SPECIAL}
    signs = {i for i, token in enumerate(prompt) if token in SIGNS}
    often = set(sorted(range(length), key=lambda i: -mass[i])[: int(0.2 * length)])
    for rule, tokens in enumerate((special, special | signs, special | signs | often)):
        if sum(mass[i] for i in tokens) >= recovery * length:
            return tokens, rule
    near = sum(weight[t, i].item() for t in range(length) for i in range(t + 1) if i in tokens or i > t - window)
    if near >= recovery * length:
        return tokens | {i for i in range(length) if i > fed - window}, 3
    return set(range(length)), 4


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_every_head_keeps_the_least_that_recovers_enough(prefill, device, tiny_llama, tiny_llama_mha):
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 1, "device": device}
    rules = set()
    for folder, heads in ((tiny_llama, 2), (tiny_llama_mha, 4)):
        prompts = random_prompts((57, 5, 33), seed=heads)
        layers = [layers_of(folder, prompt) for prompt in prompts]
        for recovery in (0.2, 0.3, 0.5, 0.65, 0.9):
            done = answer(folder, prompts, 4, POLICY | {"recovery": recovery}, **config)
            for prompt, whole, one in zip(prompts, layers, done, strict=True):
                fed = len(prompt) + 3
                for layer, kept in zip(whole, one.kept_positions, strict=True):
                    for head in range(heads):
                        tokens, rule = kept_by(layer, head, prompt, recovery, fed)
                        assert set(kept[head]) == tokens | set(range(len(prompt), fed)), (recovery, rule)
                        rules.add(rule)
            held = sum(-(-len(head) // 4) for layer in done[0].kept_positions for head in layer)
            assert done[0].memory.kv_bytes_final == held * 4 * (2 * 16 * 4 + 12)
    assert rules == {0, 1, 2, 3, 4}


def test_tokens_that_are_given_go_before_the_tokenizers():
    model = Model(2, 2, vocabulary=Vocabulary((1, 2), (3,)))
    assert FastGen().needs.vocabulary
    assert FastGen().for_model(model) == FastGen(special_ids=(1, 2), punctuation_ids=(3,))
    own = FastGen(special_ids=(5,))
    assert own.needs.vocabulary
    assert own.for_model(model) == FastGen(special_ids=(5,), punctuation_ids=(3,))
    assert not FastGen(special_ids=(5,), punctuation_ids=()).needs.vocabulary
