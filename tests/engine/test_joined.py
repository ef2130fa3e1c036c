"""Joined projections: the same numbers as apart, held once, and one product of each input in what is compiled."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers import GPTNeoXConfig, Phi3Config, Qwen2Config, Qwen3MoeConfig

from corm_batch.engine.fp8 import Fp8Linear, exact_inputs, quantize_linears
from corm_batch.engine.fusion import fuse
from corm_batch.engine.joined import Part, join_projections
from corm_batch.engine.loader import speed_up
from corm_batch.engine.spared import let_idle, spare_projections
from corm_batch.ops.scaled import FP8, dequantize, multiply_numbers
from tests.engine.test_fusion import GROUPED, SMALL, Prompt, distance, fresh_compiler, make_model

__all__ = ["fresh_compiler"]
ONE = {**GROUPED, "num_hidden_layers": 1}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "biases": (lambda: Qwen2Config(**ONE), 4),
    "norms of queries and keys, experts": (lambda: Qwen3MoeConfig(**ONE, **MOE), 3),
}
"""And a layer's products once it is joined: q with k and v, the output of attention, gate with up, down. What chooses
experts is one, and their own are none."""
QKV = ("q_proj", "k_proj", "v_proj")


class Layer(nn.Module):
    """The projections of a layer, and something to tell them apart."""

    def __init__(self, index, width, kv_width, bias):
        super().__init__()
        self.layer_idx = index
        widths = (2 * kv_width, kv_width, kv_width, 3 * kv_width, 3 * kv_width)
        for name, to in zip((*QKV, "gate_proj", "up_proj"), widths, strict=True):
            self.add_module(name, nn.Linear(width, to, bias=bias))
        self.down_proj = nn.Linear(3 * kv_width, width, bias=bias)

    def forward(self, hidden):
        attended = self.q_proj(hidden) * torch.cat((self.k_proj(hidden), self.v_proj(hidden).sin()), dim=-1)
        return self.down_proj(silu(self.gate_proj(hidden)) * self.up_proj(hidden)) + attended.sum(-1, keepdim=True)


class Model(nn.Module):
    def __init__(self, width, kv_width, bias, num_layers):
        super().__init__()
        self.layers = nn.ModuleList(Layer(index, width, kv_width, bias) for index in range(num_layers))

    def forward(self, hidden):
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def in_rows(model, input_scale=None):
    """Give a model 8-bit weights with a scale for every row, and for inputs the one given."""
    quantize_linears(model, next(model.parameters()).device)
    for part in model.modules():
        if isinstance(part, Fp8Linear) and input_scale is not None:
            part.input_scale = torch.tensor([input_scale])


def in_blocks(model):
    """With a scale for every 128 by 128."""
    in_rows(model)
    for part in model.modules():
        if isinstance(part, Fp8Linear):
            part.weight_scale = 1e-3 * (1 + torch.rand([-(-size // 128) for size in part.weight.shape]))


FORMS = {
    "model": lambda model: None, "rows": in_rows, "blocks": in_blocks, "static": lambda model: in_rows(model, 0.01),
}  # fmt: skip


def make(form="model", width=128, kv_width=128, bias=False, num_layers=1):
    torch.manual_seed(0)
    model = Model(width, kv_width, bias, num_layers).eval()
    FORMS[form](model)
    return model


def joined_and_compiled(plain):
    """A joined copy, compiled, and the heights of the weights of its graphs' products, by kind."""
    joined, heights = copy.deepcopy(plain), {}

    def backend(graph, inputs):
        for node in graph.graph.nodes:
            if node.target in (linear, multiply_numbers):
                weight = node.args[1 if node.target is linear else 2]
                heights.setdefault(node.target, Counter())[weight.meta["example_value"].shape[0]] += 1
        return graph.forward

    join_projections(joined)
    fuse(joined, backend)
    return joined, heights


@torch.inference_mode()
def apart(model, other):
    hidden = torch.randn(1, 5, 128, generator=torch.Generator().manual_seed(0))
    ours, theirs = model(hidden), other(hidden)
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_joined_model_gives_the_same_numbers_with_fewer_products(family):
    config, num_products = FAMILIES[family]
    torch.manual_seed(0)
    plain = make_model(config())
    for name, parameter in plain.module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    module, heights = joined_and_compiled(plain.module)
    joined = dataclasses.replace(plain, module=module)
    assert distance(joined, plain, Prompt(33, "cpu")) == 0
    assert heights[linear].total() == num_products
    with torch.compiler.set_stance("force_eager"):
        assert distance(joined, plain, Prompt(33, "cpu")) == 0


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_multiplied_at_once_and_works_by_parts(form):
    plain = make(form, bias=True)
    joined, heights = joined_and_compiled(plain)
    assert apart(joined, plain) < 1e-6
    assert heights == {linear if form == "model" else multiply_numbers: {512: 1, 768: 1, 128: 1}}
    with torch.compiler.set_stance("force_eager"):
        assert apart(joined, plain) < 1e-6
        if form != "model":
            with exact_inputs(plain):
                assert apart(joined, plain) > 1e-3
                with exact_inputs(joined):
                    assert apart(joined, plain) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_held_once_and_read_as_before(form):
    plain = make(form, bias=True)
    joined = copy.deepcopy(plain)
    join_projections(joined)
    held = [sum(one.nbytes for one in (*model.parameters(), *model.buffers())) for model in (plain, joined)]
    input_scales = 3 * 4 if form == "static" else 0  # two where there were five, of four bytes each
    assert held[1] == held[0] - input_scales
    parts = [getattr(joined.layers[0], name) for name in QKV]
    for name, after in zip(QKV, parts, strict=True):
        before = getattr(plain.layers[0], name)
        assert torch.equal(after.weight.float(), before.weight.float())
        assert torch.equal(after.bias, before.bias)
        if form != "model":
            expected = dequantize(before.weight, before.weight_scale)
            assert torch.equal(dequantize(after.weight, after.weight_scale), expected)
    assert len({part.weight.untyped_storage().data_ptr() for part in parts}) == 1


@pytest.mark.parametrize(
    "config", [Phi3Config(**ONE), GPTNeoXConfig(**SMALL, rotary_pct=0.5)], ids=lambda config: config.model_type
)
def test_what_a_checkpoint_has_fused_is_left_alone(config):
    module = make_model(config).module
    before = dict(module.named_modules())
    join_projections(module)
    assert dict(module.named_modules()) == before


def another_dtype(layer):
    layer.v_proj.bfloat16()


def another_width(layer):
    layer.q_proj = nn.Linear(64, 256)


def no_bias(layer):
    layer.k_proj.bias = None


def other_inputs(layer):
    layer.k_proj.input_scale = torch.tensor([0.02])


def not_quantised(layer):
    layer.q_proj = nn.Linear(128, 256)


def no_scale(layer):
    layer.q_proj.weight_scale, layer.q_proj.weight = None, nn.Parameter(layer.q_proj.weight.float())


def rows_beside_blocks(layer):
    layer.v_proj.weight_scale = torch.rand(128, 1)


def adapted(layer):
    """As somebody else may put something in a linear layer's place."""
    layer.q_proj = type("Adapted", (nn.Linear,), {})(128, 256)


def absent(layer):
    layer.v_proj = None


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("model", another_dtype), ("model", another_width), ("model", no_bias), ("model", adapted), ("model", absent),
        ("static", other_inputs), ("rows", not_quantised), ("rows", no_scale), ("blocks", rows_beside_blocks),
    ],
)  # fmt: skip
def test_projections_of_different_forms_stay_apart(form, change):
    model = make(form, bias=True, num_layers=2)
    first, second = model.layers
    change(first)
    before = [getattr(first, name) for name in QKV]
    join_projections(model)
    assert [getattr(first, name) for name in QKV] == before
    assert {type(getattr(layer, name)) for layer, name in ((first, "up_proj"), (second, "q_proj"))} == {Part}


def test_no_block_is_of_two_projections():
    model = make("blocks", kv_width=192)
    join_projections(model)
    assert {type(part) for part in model.layers[0].children()} == {Fp8Linear}


def test_blocks_that_a_gpu_cannot_multiply_at_once_stay_apart(monkeypatch):
    monkeypatch.setattr("corm_batch.engine.joined.has_block_product", lambda weight, scale: len(weight) <= 512)
    model = make("blocks")
    join_projections(model)
    assert (type(model.layers[0].q_proj), type(model.layers[0].up_proj)) == (Part, Fp8Linear)


def test_a_layer_that_borrows_computes_queries_alone_and_all_three_where_somebody_asks():
    plain = make("rows", num_layers=2)
    joined, heights = joined_and_compiled(plain)
    spared = [spare_projections(model, [1], 128) for model in (plain, joined)]
    for idle, expected in (({1}, {512: 1, 256: 1, 768: 2, 128: 2}), (set(), {512: 2, 256: 1, 768: 3, 128: 3})):
        for one in spared:
            let_idle(one, frozenset(idle))
        assert apart(joined, plain) < 1e-6
        assert heights[multiply_numbers] == expected


def test_a_cpu_has_them_apart():
    model = make()
    speed_up(model)
    assert type(model.layers[0].q_proj) is nn.Linear


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["model", "rows"])
def test_joining_takes_no_more_of_a_gpu_than_what_is_joined_at_a_time(form):
    model = Model(1024, 1024, bias=False, num_layers=4).to("cuda", torch.bfloat16)
    FORMS[form](model)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    join_projections(model)
    whole = model.layers[0].up_proj.whole.weight
    assert whole.dtype == (torch.bfloat16 if form == "model" else FP8)
    unsplit = 2 << 20  # of a block that the allocator gives out whole
    assert torch.cuda.memory_allocated() <= before + unsplit
    assert torch.cuda.max_memory_allocated() <= before + whole.nbytes + unsplit
