"""A model with random weights, made where it will run: nothing is read, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.initialization import no_init_weights
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from corm_batch.bench.workload import LlamaShape
from corm_batch.engine.attention import ATTENTION
from corm_batch.engine.config import WeightForm
from corm_batch.engine.fp8 import Fp8Linear, quantizable, refuse_old_gpu, replace
from corm_batch.engine.loader import LoadedModel, speed_up
from corm_batch.engine.shape import ModelShape

_MAX_TOKENS = 1 << 18
_STD = 0.02  # transformers' own for a Llama


@torch.no_grad()
def random_model(
    shape: LlamaShape,
    dtype: torch.dtype,
    device: torch.device,
    as_loaded: bool = True,
    weights: WeightForm = "stored",
) -> LoadedModel:
    """A Llama of this shape whose matrices are normal and whose norms are one, the same every time on one device.

    Args:
        shape, dtype, device: of the model.
        as_loaded: prepared as the engine prepares what it loads; False leaves it as transformers makes it.
        weights: fp8: matrix after matrix is quantised as soon as it is drawn, so that the device holds one of them in
            `dtype` at most.

    Raises:
        torch.OutOfMemoryError: its weights do not fit the device.
        UnsupportedModelError: the device has no 8-bit products.
    """
    config = llama_config(shape)
    in_8_bits = weights == "fp8"
    if in_8_bits:
        refuse_old_gpu(device, "fp8")
    with torch.device("meta" if in_8_bits else device), no_init_weights():
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
    if in_8_bits:
        _make_room(module, config, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for part in module.modules():
        if isinstance(part, Fp8Linear):
            empty = torch.empty(part.out_features, part.in_features, dtype=dtype, device=device)
            part.quantize(_drawn(empty, generator))
            continue
        for parameter in part.parameters(recurse=False):
            _drawn(parameter, generator)
    module.generation_config.pad_token_id = 0
    if as_loaded:
        speed_up(module)
    windows = (None,) * shape.num_layers
    return LoadedModel(module.eval(), ModelShape.from_config(config), windows, frozenset(), device, dtype)


def llama_config(shape: LlamaShape) -> LlamaConfig:
    """The config of a model of this shape that knows no end token."""
    return LlamaConfig(
        num_hidden_layers=shape.num_layers, hidden_size=shape.hidden_size, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads, head_dim=shape.head_dim, intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        max_position_embeddings=_MAX_TOKENS, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _drawn(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The tensor, filled."""
    return weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, _STD, generator=generator)


def _make_room(module: nn.Module, config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Give a model on the meta device memory for all but its 8-bit matrices."""
    for name, _ in list(quantizable(module)):
        layer = replace(module, name, dtype)
        layer.weight = nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
    module.to_empty(device=device)
    with torch.device(device):  # its frequencies are computed, not drawn
        module.get_decoder().rotary_emb = LlamaRotaryEmbedding(config)  # type: ignore[operator]


@contextmanager
def own_attention(module: torch.nn.Module) -> Iterator[None]:
    """transformers' sdpa attention instead of this engine's while the block runs."""
    module.set_attn_implementation("sdpa")  # type: ignore[operator]
    try:
        yield
    finally:
        module.set_attn_implementation(ATTENTION)  # type: ignore[operator]
