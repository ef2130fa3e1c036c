"""A model's tokens by kind."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoTokenizer

from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.vocabulary import read_turn, read_vocabulary
from corm_batch.errors import ModelLoadError
from tests.conftest import REFERENCE_MODEL, llama_config, save_random_model


def test_special_tokens_and_signs_of_a_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    special, signs = read_vocabulary(tokenizer, len(tokenizer))
    assert set(special) == set(tokenizer.all_special_ids)
    assert special
    for text, is_sign in (
        (".", True),
        (",", True),
        (" (", True),
        ("$", True),
        ("a", False),
        ("7", False),
        (" ", False),
    ):
        (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert (token in signs) == is_sign, text
    assert not set(special) & set(signs)
    assert read_vocabulary(tokenizer, 40) == (
        tuple(i for i in special if i < 40), tuple(i for i in signs if i < 40),
    )  # fmt: skip


def test_a_model_without_a_tokenizer_serves_only_who_needs_none(tiny_llama):
    settings = {"dtype": "float32", "device": "cpu", "kv_memory": "1MiB"}
    with pytest.raises(ModelLoadError, match="policy fastgen: needs the model's tokenizer"):
        Engine.from_pretrained(tiny_llama, policy={"name": "fastgen"}, **settings)
    with pytest.raises(ModelLoadError, match="policy kvzip: needs the model's tokenizer"):
        Engine.from_pretrained(tiny_llama, policy={"name": "kvzip"}, **settings)
    given = {"name": "fastgen", "special_ids": [1], "punctuation_ids": [2]}
    Engine.from_pretrained(tiny_llama, policy=given, **settings)


CHATML = (
    "{% for m in messages %}{{ '<im>' + m['role'] + '\\n' + m['content'] + '</im>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im>assistant\\n' }}{% if not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)
ONE_QUESTION = "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("template", "said", "closing"),
    [
        ("its own", "<|end|><|question|> Say it.", "<|answer|>"),
        (CHATML, "</im>\n<im>user\nSay it.", "</im>\n<im>assistant\n<think></think>"),
        (ONE_QUESTION, "\n\nSay it.", "\n"),
        (None, "\n\nSay it.", "\n"),
    ],
)
def test_a_users_next_turn_is_put_as_the_template_puts_it(template, said, closing):
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    if template != "its own":
        tokenizer.chat_template = template
    turn = read_turn(tokenizer)
    assert (tokenizer.decode(turn.say("Say it.")), tokenizer.decode(turn.closing)) == (said, closing)


def test_a_policy_is_told_the_words_of_its_model(tmp_path):
    folder = save_random_model(llama_config(vocab_size=8192), tmp_path)
    for file in REFERENCE_MODEL.glob("*t*e*.j*"):
        if file.name != "generation_config.json":
            shutil.copy(file, folder)
    policy = {"name": "kvzip", "budget": {"name": "uniform", "max_kept": 8}}
    engine = Engine.from_pretrained(folder, policy=policy, dtype="float32", device="cpu", kv_memory="1MiB")
    engine.add(Request("a", list(range(300, 320)), SamplingParams(max_new_tokens=2, ignore_eos=True)))
    ((read, _),) = engine.scheduler.waiting[0].extra_passes
    told = "<|end|><|question|> Repeat the previous context exactly.<|answer|>"
    assert engine.model.load_tokenizer().decode(read[:-20]) == told
    (done,) = engine.run([])
    assert done.memory.kept_per_layer == (16, 16)
