"""KVzip against its definition: transformers' own cache of a prompt, and behind it each request to repeat a chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import DocumentError
from corm_batch.policies.kvzip import KVzip
from corm_batch.policies.model import Model, Turn
from tests.conftest import save_random_model
from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_families import FAMILIES
from tests.engine.test_published_policies import answer
from tests.engine.test_scheduler import make_engine
from tests.policies.prompts import highest

FIRST, LATER, CLOSING, CHUNK, PINNED = [31, 7, 90], [12, 44], [150], 24, 3
POLICY = {
    "name": "kvzip", "chunk": CHUNK, "pin_first": PINNED, "first_ids": FIRST, "later_ids": LATER,
    "closing_ids": CLOSING, "budget": {"name": "uniform", "max_kept": 20},
}  # fmt: skip


def scores_of(folder, prompt):
    """[L, K, T]: the largest weight of each key in a softmax over sinks, chunk and what is read behind the prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    found = torch.zeros(model.config.num_hidden_layers, model.config.num_key_value_heads, len(prompt))
    for start in range(0, len(prompt), CHUNK):
        stop, cache, sinks = min(start + CHUNK, len(prompt)), DynamicCache(config=model.config), min(PINNED, start)
        asked = [*LATER, *prompt[start - 8 : start]] if start else FIRST
        repeated = [*asked, *CLOSING, *prompt[start:stop]]
        with torch.inference_mode():
            model(torch.tensor([prompt]), past_key_values=cache)
            weights = model(torch.tensor([repeated]), past_key_values=cache, output_attentions=True).attentions
        behind = range(len(prompt), len(prompt) + len(repeated))
        for layer, weight in enumerate(weights):
            if weight.shape[-1] != len(prompt) + len(repeated):
                continue  # of a layer with a window of its own
            seen = weight[0][..., [*range(sinks), *range(start, stop), *behind]]
            away = 1 - weight[0].sum(dim=-1)  # on a logit without a key, as some models have
            share = weight[0][..., start:stop] / (seen.sum(dim=-1) + away)[..., None]
            found[layer, :, start:stop] = share.unflatten(0, (found.shape[1], -1)).amax(dim=(1, 2))
    found[..., :PINNED] = torch.inf
    return found


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("prefill", ["exact", "streaming"])
@pytest.mark.parametrize("heads", ["gqa", "mha"])
def test_heads_keep_what_is_looked_at_while_the_prompt_is_repeated(heads, prefill, device, tiny_llama, tiny_llama_mha):
    folder, lists = {"gqa": (tiny_llama, 4), "mha": (tiny_llama_mha, 8)}[heads]
    prompts = random_prompts((57, 21, 24, 49), seed=len(heads))  # several chunks, part of one, one, and one token more
    config = {"prefill": prefill, "chunk_size": 10, "device": device, "step_token_budget": 70}
    done = answer(folder, prompts, 1, POLICY, **config)
    page_bytes = 4 * (2 * 16 * 4 + 12 + 4)
    for prompt, one in zip(prompts, done, strict=True):
        for scores, kept in zip(scores_of(folder, prompt), one.kept_positions, strict=True):
            assert [set(head) for head in kept] == [highest(score, 20) for score in scores]
        assert one.memory.kv_bytes_peak == lists * -(-len(prompt) // 4) * page_bytes
        assert one.memory.kv_bytes_after_prefill == one.memory.kv_bytes_final == lists * 5 * page_bytes
        assert one.memory.evicted_attention_mass is None


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_windows_soft_capping_and_sinks_are_those_of_the_model(family, tmp_path):
    folder, prompt = save_random_model(FAMILIES[family](), tmp_path), random_prompts((57,), seed=4)[0]
    (done,) = answer(folder, [prompt], 1, POLICY)
    windows = 0
    for scores, kept in zip(scores_of(folder, prompt), done.kept_positions, strict=True):
        if scores.isfinite().sum() == 0 or not scores[:, PINNED:].any():
            windows += 1
            assert all(head == tuple(range(57 - len(head), 57)) for head in kept)
        else:
            assert [set(head) for head in kept] == [highest(score, 20) for score in scores]
    assert 0 < windows < len(done.kept_positions)


def test_the_heads_of_a_layer_compete_without_a_floor_by_default(tiny_llama):
    prompt = random_prompts((57,), seed=8)[0]
    budget = {"name": "adakv", "max_kept": 15, "floor": 0.0}
    (done,) = answer(tiny_llama, [prompt], 1, POLICY | {"budget": budget})
    assert KVzip().budget.to_spec() == budget | {"max_kept": 1024}
    for scores, kept in zip(scores_of(tiny_llama, prompt), done.kept_positions, strict=True):
        best = highest(scores.flatten(), 30)
        assert [set(head) for head in kept] == [{i - 57 * k for i in best if i // 57 == k} for k in range(2)]
    assert len({len(head) for layer in done.kept_positions for head in layer}) > 1


def test_an_answer_takes_the_room_of_the_prompts_lowest_scores(tiny_llama):
    prompt = random_prompts((60,), seed=6)[0]
    (short,), (long,) = (answer(tiny_llama, [prompt], new, POLICY, compact_every=3) for new in (1, 11))
    for before, after in zip(short.kept_positions, long.kept_positions, strict=True):
        for first, last in zip(before, after, strict=True):
            assert len(last) == 20
            assert {0, 1, 2, *range(60, 70)} < set(last) < {*first, *range(60, 70)}


def passes(policy, num_tokens, room):
    return policy.extra_passes(np.arange(num_tokens), room)


def test_chunks_are_as_long_as_the_context_has_room_for():
    policy = KVzip(chunk=100, first_ids=(900, 901), later_ids=(902,), closing_ids=(903,))
    whole = passes(policy, 250, 1000)
    assert [one.about for one in whole] == [range(100), range(100, 200), range(200, 250)]
    assert whole[0].token_ids.tolist() == [900, 901, 903, *range(100)]
    assert whole[2].token_ids.tolist() == [902, *range(192, 200), 903, *range(200, 250)]
    for room, size in ((110, 100), (109, 99), (42, 32)):
        found = passes(policy, 250, room)
        assert {len(one.about) for one in found[:-1]} == {size}
        assert [i for one in found for i in one.about] == list(range(250))
        assert max(len(one.token_ids) for one in found) <= room
    with pytest.raises(DocumentError, match=r"10 tokens that ask for it and 32 or more.*250 prompt tokens leave 41"):
        passes(policy, 250, 41)
    (short,) = passes(policy, 5, 15)
    assert short.token_ids.tolist() == [900, 901, 903, 0, 1, 2, 3, 4]


def test_a_prompt_without_room_behind_it_fails_alone_and_one_that_loses_nothing_needs_none(tiny_llama):
    engine = make_engine(tiny_llama, POLICY, max_model_len=100)
    sampling = SamplingParams(max_new_tokens=5, ignore_eos=True)
    whole = Request("whole", [9] * 90, sampling, uncompressed=True)
    requests = [Request(str(n), [9] * n, sampling) for n in (90, 15, 40)]
    done = {one.id: one for one in engine.run([*requests, whole])}
    assert isinstance(done["90"].error, DocumentError)
    assert "90 prompt tokens leave 10 of the context" in str(done["90"].error)
    assert [done[name].error for name in ("15", "40", "whole")] == [None] * 3
    engine = make_engine(tiny_llama, POLICY, max_model_len=20)
    (short,) = engine.run([Request("15", [9] * 15, sampling)])  # 20 tokens at the end: every head may hold them
    assert short.token_ids == done["15"].token_ids
    assert short.memory.kept_ratio == 1.0


def test_the_models_own_words_go_where_none_are_given():
    turn = Turn(lambda words: (1, len(words)), (2,))
    policy = KVzip().for_model(Model(2, 2, turn=turn))
    assert (policy.first_ids, policy.later_ids, policy.closing_ids) == ((1, 36), (1, 62), (2,))
    assert KVzip(later_ids=(5,)).for_model(Model(2, 2, turn=turn)).later_ids == (5,)
    assert KVzip().needs.turn
    assert not KVzip(first_ids=(), later_ids=(), closing_ids=()).needs.turn
