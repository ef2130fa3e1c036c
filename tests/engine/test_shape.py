"""Counts that size a cache, read without weights."""

from __future__ import annotations

import pytest
import torch
from transformers import GPTNeoXConfig

from corm_batch.engine.shape import ModelShape
from corm_batch.errors import ModelLoadError
from tests.conftest import REFERENCE_MODEL, llama_config


def test_the_reference_model():
    shape = ModelShape.from_pretrained(str(REFERENCE_MODEL))
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads, shape.head_dim) == (10, 6, 6, 64)
    assert (shape.max_model_len, shape.vocab_size) == (8192, 8192)
    assert shape.kv_bytes_per_token(torch.float32) == 2 * 10 * 6 * 64 * 4
    assert shape.kv_bytes_per_token(torch.bfloat16) == 2 * 10 * 6 * 64 * 2


def test_no_weights_are_needed(tmp_path):
    llama_config().save_pretrained(tmp_path)
    assert ModelShape.from_pretrained(str(tmp_path)).num_kv_heads == 2


def test_without_kv_heads_in_the_config_every_query_head_has_its_own():
    shape = ModelShape.from_config(GPTNeoXConfig(hidden_size=48, num_attention_heads=4))
    assert (shape.num_kv_heads, shape.head_dim) == (4, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_attention_heads": 0}, "num_heads=0"), ({"num_key_value_heads": 3}, "4 query heads.*3 kv heads")],
)
def test_counts_that_make_no_sense_are_named(changes, message):
    config = llama_config()
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(ModelLoadError, match=rf"config\.json \(llama\).*{message}"):
        ModelShape.from_config(config)
