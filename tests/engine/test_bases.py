"""Directions of a loaded model's keys and values: what is read off it, and models that have none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Phi3Config, PhiConfig, Qwen2Config, Qwen3Config, SmolLM3Config

from corm_batch.engine.bases import find_bases, refuse_lost
from corm_batch.engine.fp8 import Fp8Linear
from corm_batch.engine.loader import load_model
from corm_batch.errors import UnsupportedModelError
from corm_batch.storage.lorc import Lorc
from tests.conftest import llama_config, save_random_model

SIZES = llama_config().to_dict()
SHAPE = {
    name: SIZES[name]
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings", "eos_token_id", "bos_token_id", "pad_token_id",
    )
}  # fmt: skip
WIDE = {name: size for name, size in SHAPE.items() if name != "head_dim"} | {"hidden_size": 64}
CPU = torch.device("cpu")
LORC = Lorc(key_share=0.5, value_share=0.5)


def inside(vectors, directions):
    """How much of vectors [N, D] lies in directions [D, W]."""
    return float((vectors @ directions).norm() / vectors.norm())


@pytest.mark.parametrize("config", [Qwen2Config, Qwen3Config])
def test_biases_and_norms_of_heads_count(config, tmp_path):
    """A bias far above the weights is a direction of its own, and a norm's factor may make one of the others'."""
    model = load_model(save_random_model(config(**SHAPE), tmp_path), torch.float32, CPU)
    attention = model.module.model.layers[1].self_attn
    axis = torch.zeros(16)
    axis[3] = 1.0
    with torch.no_grad():
        if config is Qwen2Config:
            attention.k_proj.bias.copy_(100 * axis.repeat(2))
        else:
            attention.k_norm.weight.copy_(1 + 100 * axis)
    found = find_bases(model, LORC)[1]
    for head in range(2):
        assert inside(axis[None], found.key[head]) > 0.99


def test_weights_of_8_bits_are_read_by_their_values(tiny_llama):
    plain, model = (load_model(tiny_llama, torch.float32, CPU) for _ in range(2))
    for layer in model.module.model.layers:
        for name in ("k_proj", "v_proj"):
            linear = getattr(layer.self_attn, name)
            small = Fp8Linear(linear.in_features, linear.out_features, False, torch.float32, "cpu")
            small.quantize(linear.weight.detach())
            small.quantizes_input = False
            setattr(layer.self_attn, name, small)
    for one, other in zip(find_bases(plain, LORC), find_bases(model, LORC), strict=True):
        for before, after in ((one.key, other.key), (one.value, other.value)):
            torch.testing.assert_close(before @ before.mT, after @ after.mT, rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PhiConfig(**WIDE), r"lorc needs keys that are turned whole by their position; .* turns 8 of their 16"),
        (SmolLM3Config(**SHAPE, no_rope_layers=[1, 0]), r"lorc needs keys without .* layer 1 turns them in another"),
        (Phi3Config(**WIDE), r"lorc needs to read .* as k_proj and v_proj; layer 0 has no such parts"),
    ],
    ids=["turned in part", "one layer not turned", "one projection of all"],
)
def test_a_model_without_what_is_needed_is_refused(config, message, tmp_path):
    model = load_model(save_random_model(config, tmp_path), torch.float32, CPU)
    with pytest.raises(UnsupportedModelError, match=f"engine.storage: {message}"):
        find_bases(model, LORC)


def test_heads_too_wide_for_a_gpu_are_refused_there(tiny_llama):
    model = load_model(tiny_llama, torch.float32, CPU)
    wide = replace(model, shape=replace(model.shape, head_dim=256), device=torch.device("cuda"))
    with pytest.raises(UnsupportedModelError, match="at most 128 numbers in float32 on a GPU, got 256"):
        find_bases(wide, LORC)


def test_directions_that_leave_nothing_of_what_a_model_says_are_refused(tiny_llama):
    model = load_model(tiny_llama, torch.float32, CPU)
    refuse_lost(model, LORC, None)
    refuse_lost(model, LORC, find_bases(model, LORC))  # a random model says little
    bases = find_bases(model, LORC)
    with torch.no_grad():
        model.module.lm_head.weight.mul_(1000)
    with pytest.raises(UnsupportedModelError, match=r"lorc leaves nothing of what this model says, which is \d+"):
        refuse_lost(model, LORC, bases)
    refuse_lost(model, LORC, find_bases(model, Lorc(key_share=1.0, value_share=1.0)))
