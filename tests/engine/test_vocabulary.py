"""A model's tokens by kind."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from corm_batch.engine.open import Engine
from corm_batch.engine.vocabulary import read_vocabulary
from corm_batch.errors import ModelLoadError
from tests.conftest import REFERENCE_MODEL


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
    given = {"name": "fastgen", "special_ids": [1], "punctuation_ids": [2]}
    Engine.from_pretrained(tiny_llama, policy=given, **settings)
