"""The compiled and sliced forward: the logits of the plain one, code shared by layers and by prompt lengths."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    GptOssConfig,
    Qwen3Config,
)

from corm_batch.engine.attention import ATTENTION
from corm_batch.engine.fp8 import quantize_linears
from corm_batch.engine.fusion import fuse, slice_rows
from corm_batch.engine.joined import join_projections
from corm_batch.engine.loader import LoadedModel
from corm_batch.ops.causal import causal_attention
from tests.conftest import llama_config

SMALL = {
    "vocab_size": 199, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 16}
WINDOWED = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES = {
    "llama": lambda: llama_config(num_hidden_layers=4),
    "qwen3": lambda: Qwen3Config(**GROUPED),
    "gemma2": lambda: Gemma2Config(**GROUPED, **WINDOWED, query_pre_attn_scalar=16),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL, rotary_pct=0.5),
    "gpt_oss": lambda: GptOssConfig(**GROUPED, **WINDOWED, num_local_experts=4, num_experts_per_tok=2),
}
LENGTHS = (33, 100, 2, 1, 40)


class Prompt:
    """One prompt, attended causally; the logits of its first and last token are wanted."""

    def __init__(self, length, device):
        self.input_ids = torch.randint(199, (length,), device=device)
        self.positions = torch.arange(length, device=device)
        self.logit_rows = torch.tensor([0, length - 1], device=device)

    def attend(self, layer, query_HTD, key_KTD, value_KTD, features):
        return causal_attention(
            query_HTD, key_KTD, value_KTD, features.scale, features.softcap, features.window, features.sink_H
        )[0]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def make_model(config, device="cpu", dtype=torch.float32, **changes):
    make = AutoModelForCausalLM.from_pretrained if isinstance(config, str) else AutoModelForCausalLM.from_config
    module = make(config, dtype=dtype, attn_implementation=ATTENTION, **changes).eval().to(device)
    return LoadedModel(module, None, (), frozenset(), torch.device(device), dtype)


def make_in_8_bits(device="cpu", dtype=torch.float32, **changes):
    """A Llama whose layers have 8-bit weights."""
    model = make_model(llama_config(**changes), device, dtype)
    quantize_linears(model.module, torch.device(device))
    return model


def duplicate(model):
    return dataclasses.replace(model, module=copy.deepcopy(model.module))


@torch.inference_mode()
def distance(model, other, prompt):
    ours, theirs = (m.forward(prompt).float() for m in (model, other))
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("family", FAMILIES)
def test_sliced_rows_give_the_same_logits(family):
    plain = make_model(FAMILIES[family]())
    sliced = duplicate(plain)
    slice_rows(sliced.module, at_most=16)
    seen = []
    mlp = sliced.module.get_decoder().layers[0].mlp.inner
    mlp.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-2]))
    for length in (5, 16, 17, 50):
        seen.clear()
        assert distance(sliced, plain, Prompt(length, "cpu")) < 1e-6
        assert sum(seen) == length
        assert max(seen) <= 16
        assert min(seen) >= length // 4


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_compiled_layers_share_their_code_for_every_length(family):
    plain = make_model(FAMILIES[family]())
    fused = duplicate(plain)
    slice_rows(fused.module)
    fuse(fused.module, backend="eager")  # the graphs are what is tested here
    graphs = []
    for length in LENGTHS:
        assert distance(fused, plain, Prompt(length, "cpu")) < 1e-5
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] <= 7  # four pieces of a layer and the last norm; a layout of attention's output more
    assert graphs[2] == graphs[0]  # any number of tokens but one
    assert graphs[-1] <= 2 * graphs[0]  # and one


def test_products_of_one_input_share_its_numbers():
    """q, k and v; the output of attention; gate and up; SwiGLU: four quantisations where seven are written."""
    plain = make_in_8_bits(num_hidden_layers=1)
    fused = duplicate(plain)
    found = Counter()

    def backend(graph, inputs):
        found.update(node.target for node in graph.graph.nodes)
        return graph.forward

    fuse(fused.module, backend)
    assert distance(fused, plain, Prompt(33, "cpu")) < 1e-5
    rows = torch.ops.corm_batch
    assert (found[rows.measured_rows.default], found[rows.gated_rows.default]) == (3, 1)


class Scattering(torch.nn.Module):
    """A layer whose result is changed in place, as that of experts is."""

    def forward(self, hidden):
        out = torch.zeros_like(hidden)
        out.index_add_(0, torch.tensor([2, 0, 1]), hidden)
        return out


def test_what_a_layer_changes_in_place_is_changed():
    module = torch.nn.Module()
    module.layers = torch.nn.ModuleList([Scattering()])
    fuse(module, backend="aot_eager")
    hidden = torch.randn(3, 4)
    assert torch.equal(module.layers[0](hidden), hidden[[1, 2, 0]])


def test_long_prompts_compile_the_slice_not_the_loop():
    plain = make_model(llama_config())
    fused = duplicate(plain)
    slice_rows(fused.module, at_most=32)
    fuse(fused.module, backend="eager")
    graphs = []
    for length in (70, 33, 500):
        assert distance(fused, plain, Prompt(length, "cpu")) < 1e-5
        graphs.append(counters["stats"]["unique_graphs"])
    assert set(graphs) == {graphs[0]}


def test_what_is_no_list_of_layers_is_left_alone():
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    slice_rows(module, at_most=1)
    fuse(module, backend="aot_eager")
    hidden = torch.randn(3, 4)
    assert torch.equal(module(hidden), module[1](module[0](hidden)))
    assert counters["stats"]["unique_graphs"] == 0


def fused_on_a_gpu(plain, closer_than):
    """A fused copy, its projections joined, that agrees with `plain` on prompts of many lengths."""
    fused = duplicate(plain)
    slice_rows(fused.module, at_most=512)
    join_projections(fused.module)
    fuse(fused.module)
    for length in (700, 100, 1, 2, 1025, 64):
        assert distance(fused, plain, Prompt(length, "cuda")) < closer_than
    return fused


def capture_distance(fused, judge):
    """Relative distance of a captured pass, replayed over other tokens, from `judge`'s ordinary one."""
    prompt, graph = Prompt(64, "cuda"), torch.cuda.CUDAGraph()
    with torch.inference_mode():
        fused.forward(prompt)
        with torch.cuda.graph(graph):
            captured = fused.forward(prompt)
        prompt.input_ids.copy_(torch.randint(199, (64,), device="cuda"))
        graph.replay()
        expected = judge.forward(prompt)
    return (captured - expected).norm() / expected.norm()


@pytest.mark.gpu
def test_kernels_in_8_bits_agree_and_can_be_captured():
    """Rounding to 8 bits amplifies what arithmetic in another order changes: no closer than another rounding."""
    shape = {"hidden_size": 256, "intermediate_size": 640, "head_dim": 64}
    plain = make_in_8_bits("cuda", torch.bfloat16, **shape)
    fused = fused_on_a_gpu(plain, closer_than=0.15)
    assert capture_distance(fused, fused) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("family", "dtype", "rounding"),
    [("llama", torch.float32, 1e-3), ("gemma2", torch.float32, 1e-3), ("llama", torch.bfloat16, 3e-2)],
)
def test_kernels_on_a_gpu_agree_and_can_be_captured(family, dtype, rounding):
    plain = make_model(FAMILIES[family](), "cuda", dtype)
    fused = fused_on_a_gpu(plain, closer_than=rounding)
    assert capture_distance(fused, plain) < rounding
