"""What a generation_config.json says: greedy tokens equal those of transformers' generate with it, or it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.rules import Rules
from corm_batch.errors import DocumentError, ModelLoadError, UnsupportedModelError
from tests.conftest import llama_config, save_random_model

ENDS = (17, 60)
PROMPTS = {"a": [5, 6, 7] * 5, "b": [9] * 30, "c": list(range(40)), "d": [3]}
NEW = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random_model(llama_config(), tmp_path_factory.mktemp("ruled"), seed=2)


def with_settings(folder, **settings):
    Path(folder, "generation_config.json").write_text(json.dumps(settings))


def engine_of(folder, **config):
    fields = {"dtype": "float32", "device": "cpu", "kv_memory": "4MiB", **config}
    return Engine.from_pretrained(folder, policy={"name": "full"}, **fields)


@pytest.fixture(scope="module")
def transformers_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def generate(model, folder):
    """The new tokens of transformers' own greedy answers."""
    model.generation_config = GenerationConfig.from_pretrained(folder)
    answers = {}
    for name, prompt in PROMPTS.items():
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )
        answers[name] = out[0, len(prompt) :].tolist()
    return answers


def answers_of(engine, **sampling):
    requests = [Request(name, ids, SamplingParams(max_new_tokens=NEW, **sampling)) for name, ids in PROMPTS.items()]
    return {done.id: list(done.token_ids) for done in engine.run(requests)}


@pytest.fixture(scope="module")
def free(folder):
    """The answers without any rule."""
    with_settings(folder)
    return answers_of(engine_of(folder))


# what "b" answers comes from this seed's weights; tokens are taken from the free answers, so that every rule bites
SETTINGS = {
    "nothing": lambda free: {},
    "repetition": lambda free: {"repetition_penalty": 1.3},
    "reward": lambda free: {"repetition_penalty": 0.8},
    "ngram": lambda free: {"no_repeat_ngram_size": 2},
    "unigram": lambda free: {"no_repeat_ngram_size": 1},
    "suppressed": lambda free: {"suppress_tokens": [free["a"][0], free["b"][2]]},
    "not first": lambda free: {"begin_suppress_tokens": [answer[0] for answer in free.values()]},
    "bad words": lambda free: {"bad_words_ids": [[free["a"][3]], free["b"][1:3], free["c"][2:5], [ENDS[0]]]},
    "bias": lambda free: {"sequence_bias": [[[free["a"][1]], -2.5], [free["b"][:2], -50.0], [[11], 3.0]]},
    "longer": lambda free: {"min_new_tokens": 9, "eos_token_id": [free["a"][2], free["b"][4]]},
    "longer in all": lambda free: {"min_length": 20, "eos_token_id": [free["a"][2], free["d"][1]]},
    "all": lambda free: {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [free["a"][0]], "min_new_tokens": 4,
        "begin_suppress_tokens": [free["b"][0]], "sequence_bias": [[[11], 3.0], [free["c"][:2], -9.0]],
        "bad_words_ids": [[free["d"][0]]], "eos_token_id": list(ENDS),
    },
    "sampling, which a greedy answer does without": lambda free: {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8, "typical_p": 0.5, "max_length": 10,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_greedy_tokens_equal_those_of_generate(name, folder, free, transformers_model):
    settings = SETTINGS[name](free)
    with_settings(folder, **settings)
    own = generate(transformers_model, folder)
    assert answers_of(engine_of(folder)) == own
    if "do_sample" not in settings and settings:
        assert own != free, "the rule changes nothing here"


def test_rules_hold_through_preemption_and_for_any_number_of_steps_between_looks(folder, free):
    with_settings(folder, repetition_penalty=1.3, min_new_tokens=5, begin_suppress_tokens=[free["a"][0]])
    expected = answers_of(engine_of(folder))
    tight = engine_of(folder, kv_memory="56KiB", page_size=4)
    tight.scheduler.kept_ratio = 0.3  # expects too little
    tight.decoder._fewest_steps = tight.decoder.most_steps = 7
    requests = [Request(name, ids, SamplingParams(max_new_tokens=NEW)) for name, ids in PROMPTS.items()]
    done = list(tight.run(requests))
    assert {one.id: list(one.token_ids) for one in done} == expected
    assert sum(one.memory.preemptions for one in done) > 0


def test_what_is_not_applied_is_refused_by_name(folder):
    for key, value in {
        "num_beams": 4, "guidance_scale": 1.5, "encoder_repetition_penalty": 1.2, "forced_eos_token_id": 0,
        "exponential_decay_length_penalty": [10, 1.5], "penalty_alpha": 0.6, "dola_layers": "low", "max_time": 3.0,
        "num_return_sequences": 2, "token_healing": True,
    }.items():  # fmt: skip
        with pytest.raises(UnsupportedModelError, match=rf"generation_config\.json: {key}: .*model\.generation_config"):
            Rules.read(GenerationConfig(**{key: value}, do_sample=True), 199, frozenset())


def test_a_setting_turned_off_is_no_setting():
    config = GenerationConfig(**GenerationConfig._get_default_generation_params())
    assert Rules.read(config, 199, frozenset()) == Rules(top_k=50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repetition_penalty": -1.0}, r"repetition_penalty.*greater than 0, got -1\.0"),
        ({"repetition_penalty": "high"}, "repetition_penalty.*'high'"),
        ({"suppress_tokens": [3, 199]}, r"suppress_tokens: \[3, 199\].*0\.\.198"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids: \[\]"),
        ({"min_new_tokens": 2.5}, "min_new_tokens"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(settings, message):
    with pytest.raises(ModelLoadError, match=f"generation_config.json.*{message}"):
        Rules.read(GenerationConfig(**settings), 199, frozenset())


def test_a_file_that_cannot_be_read_is_not_passed_over(folder):
    for content in ("{", "[" * 5000 + "]" * 5000):
        Path(folder, "generation_config.json").write_text(content)
        with pytest.raises(ModelLoadError, match=r"generation_config\.json.*cannot be read"):
            engine_of(folder)


def test_a_file_can_be_ignored_but_for_its_end_tokens(folder, free):
    end = free["a"][3]
    with_settings(folder, repetition_penalty=1.3, num_beams=4, eos_token_id=end)
    answers = answers_of(engine_of(folder, apply_generation_config=False))
    assert answers["a"] == free["a"][: free["a"].index(end) + 1]


def test_a_sampled_answer_under_a_rule_that_cannot_be_kept_fails_by_name(folder):
    with_settings(folder, typical_p=0.5)
    engine = engine_of(folder)
    greedy, sampled = engine.run([Request("a", [1, 2]), Request("b", [1, 2], SamplingParams(temperature=1.0))])
    greedy, sampled = sorted((greedy, sampled), key=lambda one: one.id)
    assert greedy.error is None
    assert isinstance(sampled.error, DocumentError)
    assert "typical_p: 0.5" in str(sampled.error)


def test_end_tokens_of_all_configs_and_of_the_caller_end_an_answer(folder, free):
    for place, (name, token) in {
        "generation_config.json": ("a", free["a"][2]), "config.json": ("b", free["b"][2]),
    }.items():  # fmt: skip
        path = Path(folder, place)
        settings = json.loads(path.read_text()) if place == "config.json" else {}
        path.write_text(json.dumps({**settings, "eos_token_id": token}))
        assert token in engine_of(folder).model.eos_token_ids, name
    engine = engine_of(folder, end_token_ids=[free["c"][2]])
    assert engine.model.eos_token_ids == {free["a"][2], free["b"][2], free["c"][2]}
    answers = answers_of(engine)
    for name in "abc":
        assert answers[name][-1] == free[name][2]
    path.write_text(json.dumps({**settings, "eos_token_id": -1}))
    assert engine_of(folder).model.eos_token_ids == {free["a"][2]}


def test_stop_token_ids_of_a_request_end_it_even_where_end_tokens_are_ignored(folder, free):
    with_settings(folder)
    engine = engine_of(folder)
    stop = free["a"][2]
    answers = answers_of(engine, ignore_eos=True, stop_token_ids=(stop,))
    assert answers["a"] == free["a"][: free["a"].index(stop) + 1]
    (refused,) = engine.run([Request("x", [1], SamplingParams(stop_token_ids=(199,)))])
    assert "stop_token_ids: 199" in str(refused.error)
