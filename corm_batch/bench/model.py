"""A model with random weights, made where it will run: nothing is read, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.initialization import no_init_weights

from corm_batch.bench.workload import LlamaShape
from corm_batch.engine.attention import ATTENTION
from corm_batch.engine.loader import LoadedModel, speed_up
from corm_batch.engine.shape import ModelShape

_MAX_TOKENS = 1 << 18
_STD = 0.02  # transformers' own for a Llama


@torch.no_grad()
def random_model(shape: LlamaShape, dtype: torch.dtype, device: torch.device, as_loaded: bool = True) -> LoadedModel:
    """A Llama of this shape whose matrices are normal and whose norms are one, the same every time on one device.

    Args:
        shape, dtype, device: of the model.
        as_loaded: prepared as the engine prepares what it loads; False leaves it as transformers makes it.

    Raises:
        torch.OutOfMemoryError: its weights do not fit the device.
    """
    config = LlamaConfig(
        num_hidden_layers=shape.num_layers, hidden_size=shape.hidden_size, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads, head_dim=shape.head_dim, intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        max_position_embeddings=_MAX_TOKENS, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.device(device), no_init_weights():
        module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, _STD, generator=generator)
    module.generation_config.pad_token_id = 0
    if as_loaded:
        speed_up(module)
    windows = (None,) * shape.num_layers
    return LoadedModel(module.eval(), ModelShape.from_config(config), windows, frozenset(), device, dtype)


@contextmanager
def own_attention(module: torch.nn.Module) -> Iterator[None]:
    """transformers' sdpa attention instead of this engine's while the block runs."""
    module.set_attn_implementation("sdpa")  # type: ignore[operator]
    try:
        yield
    finally:
        module.set_attn_implementation(ATTENTION)  # type: ignore[operator]
