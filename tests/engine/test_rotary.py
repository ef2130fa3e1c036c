"""A model's rotary embedding: found, tried on every layer, refused where it is of another kind."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.rotary import find_rotary
from corm_batch.errors import UnsupportedModelError


def test_queries_lose_their_position_in_every_layer(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    rotary = find_rotary(model)
    config = AutoConfig.from_pretrained(tiny_llama)
    assert rotary.frequencies.shape == (8,)
    assert rotary.frequencies[0] == 1.0
    assert 0 < rotary.frequencies[-1] < 8 / config.max_position_embeddings
    rotary.frequencies[0] += 0.5  # the model's own: its layers now turn otherwise than they are said to, and back
    find_rotary(model)


def test_a_layer_that_turns_otherwise_is_refused(tiny_llama, monkeypatch):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    attention = model.module.model.layers[1].self_attn
    forward = attention.forward
    monkeypatch.setattr(
        attention, "forward",
        lambda *args, position_embeddings, **kwargs: forward(
            *args, position_embeddings=tuple(torch.ones_like(x) for x in position_embeddings), **kwargs
        ),
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="layer 1 turns them in another way"):
        find_rotary(model)


def test_a_model_of_two_rotary_embeddings_is_refused(tiny_llama):
    model = load_model(tiny_llama, torch.float32, torch.device("cpu"))
    model.module.second = model.module.model.rotary_emb
    find_rotary(model)
    model.module.second = type(model.module.model.rotary_emb)(model.module.config)
    with pytest.raises(UnsupportedModelError, match="has 2 rotary embeddings, and one is supported"):
        find_rotary(model)


def test_only_a_policy_that_needs_it_asks(tiny_llama, monkeypatch):
    monkeypatch.setattr("corm_batch.engine.rotary.find_rotary", lambda model: 1 / 0)
    settings = {"dtype": "float32", "device": "cpu", "kv_memory": "1MiB"}
    Engine.from_pretrained(tiny_llama, policy={"name": "snapkv"}, **settings)
    with pytest.raises(ZeroDivisionError):
        Engine.from_pretrained(tiny_llama, policy={"name": "expected_attention"}, **settings)
