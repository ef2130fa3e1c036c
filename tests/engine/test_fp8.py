"""Which layers take 8-bit weights, and what a layer does while its inputs are left alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from corm_batch.engine.fp8 import Fp8Linear, exact_inputs, quantizable, quantize_linears, replace
from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.scaled import dequantize
from tests.conftest import llama_config

CPU = torch.device("cpu")


def make(**changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(llama_config(**changes), dtype=torch.float32)


def test_a_ranks_share_has_to_be_as_wide_as_a_layer():
    model = make()
    assert len(list(quantizable(model))) == 14
    two = {name.rpartition(".")[2] for name, _ in quantizable(model, 2)}
    assert two == {"v_proj", "k_proj", "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} - {
        name.rpartition(".")[2] for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and (part.in_features % 32 or part.out_features % 32)
    }  # fmt: skip
    assert not list(quantizable(model, 3))


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"model\.weights: fp8: Sequential has no linear layers"):
        quantize_linears(torch.nn.Sequential(torch.nn.Linear(16, 16)), CPU)


def test_biases_stay_and_the_weights_shrink():
    model = make(attention_bias=True)
    torch.nn.init.normal_(model.model.layers[0].self_attn.q_proj.bias)
    bias, before = model.model.layers[0].self_attn.q_proj.bias.clone(), model.model.layers.state_dict()
    quantize_linears(model, CPU)
    layer = model.model.layers[0].self_attn.q_proj
    assert torch.equal(layer.bias, bias)
    zero = layer(torch.zeros(2, 48))
    assert torch.equal(zero, bias.expand(2, -1))
    wide = sum(value.nbytes for value in before.values() if value.ndim == 2)
    narrow = sum(part.weight.nbytes for part in model.modules() if isinstance(part, Fp8Linear))
    assert narrow * 4 == wide


def test_inputs_are_left_alone_while_asked_to():
    model = make()
    quantize_linears(model, CPU)
    layer, value = model.model.layers[0].mlp.up_proj, torch.randn(3, 48)
    values = torch.nn.functional.linear(value, dequantize(layer.weight, layer.weight_scale))
    with exact_inputs(model):
        assert torch.equal(layer(value), values)
    assert not torch.equal(layer(value), values)


def test_what_is_put_in_a_layers_place_keeps_its_widths():
    model = make(attention_bias=True)
    layer = replace(model, "model.layers.1.self_attn.k_proj", torch.bfloat16)
    assert model.model.layers[1].self_attn.k_proj is layer
    assert (layer.in_features, layer.out_features, layer.weight_scale) == (48, 32, None)
    assert layer.bias is not None
