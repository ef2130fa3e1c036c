"""What is refused by name, from the config alone."""

from __future__ import annotations

import pytest
from transformers import (
    DeepseekV3Config,
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaForCausalLM,
    Phi3Config,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from corm_batch.engine.support import refuse_outliers, refuse_unsupported
from corm_batch.errors import UnsupportedModelError
from corm_batch.storage.base import Storage
from tests.conftest import llama_config
from tests.engine.test_families import SMALL

REFUSED = {
    "latent attention": (DeepseekV3Config(kv_lora_rank=64), "latent attention"),
    "chunked attention": (Llama4TextConfig(num_hidden_layers=4), "chunked_attention"),
    "dynamic rope": (
        llama_config(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        "dynamic",
    ),
    "bidirectional": (Gemma3TextConfig(use_bidirectional_attention=True), "bidirectional"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_would_get_wrong_is_refused_by_name(name):
    config, feature = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=feature) as caught:
        refuse_unsupported(config)
    assert config.model_type in str(caught.value)


def test_longrope_is_refused_beyond_its_original_context_only():
    factors = {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 256, **factors}
    config = Phi3Config(rope_parameters=rope, original_max_position_embeddings=256)
    with pytest.raises(UnsupportedModelError, match="max_model_len"):
        refuse_unsupported(config)
    refuse_unsupported(config, max_model_len=256)


def test_a_model_that_cannot_be_split_is_refused_on_several_ranks_only():
    config = llama_config(num_key_value_heads=2)
    for size in (1, 2):
        refuse_unsupported(config, num_shards=size)
    with pytest.raises(UnsupportedModelError, match=r"tensor_parallel of 4.*4 query heads and 2 kv heads"):
        refuse_unsupported(config, num_shards=4)
    config.base_model_tp_plan = None
    refuse_unsupported(config)
    with pytest.raises(UnsupportedModelError, match=r"tensor_parallel of 2.*without a tensor-parallel plan"):
        refuse_unsupported(config, num_shards=2)


def test_whole_numbers_are_refused_beside_large_biases_of_keys_and_the_layer_is_named():
    model = LlamaForCausalLM(llama_config(attention_bias=True))
    bias = model.model.layers[1].self_attn.k_proj.bias.data
    for largest, refused in ((0.0, ()), (-20.0, ("int4",)), (-300.0, ("int4", "int8"))):
        bias[3] = largest
        for name in Storage.by_name_alone():  # the others say nothing of biases
            storage = Storage.from_spec({"name": name})
            if name not in refused:
                refuse_outliers(model, storage)
                continue
            with pytest.raises(UnsupportedModelError, match=rf"{name} rounds.*layers\.1.*k_proj.*{-largest:.0f}"):
                refuse_outliers(model, storage)


def test_whole_numbers_are_refused_behind_a_norm_of_keys_with_a_weight_far_from_the_others():
    weight = (model := Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=16))).model.layers[1].self_attn.k_norm.weight.data
    weight[:] = 2.0
    for largest, refused in ((12.0, ()), (40.0, ("int4",)), (-100.0, ("int4", "int8"))):
        weight[3] = largest
        for name in ("model", "fp8", "int8", "int4"):
            storage = Storage.from_spec({"name": name})
            if name not in refused:
                refuse_outliers(model, storage)
                continue
            with pytest.raises(
                UnsupportedModelError, match=rf"{name} rounds.*1.*k_norm.* {abs(largest) / 2:.0f} where"
            ):
                refuse_outliers(model, storage)
