"""Load a model so that its attention goes through this engine, and refuse what the engine would compute wrongly.

Two lines of defence: features known to break a packed, paged forward are refused by name from the config; then the
loaded model answers a small packed batch, which must agree with its own eager attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

from corm_batch.engine.attention import ATTENTION, AttentionFeatures, Batch, Running
from corm_batch.engine.fusion import fuse, slice_rows
from corm_batch.engine.ranks import ALONE, Ranks
from corm_batch.engine.shape import ModelShape, load_config
from corm_batch.errors import ModelLoadError, RankError, UnsupportedModelError
from corm_batch.ops.causal import causal_attention

_PROBE_LENGTHS = (11, 7)
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
"""Relative Frobenius distance of the probe's logits: rounding stays far below, a wrong feature far above."""


@dataclass(frozen=True)
class LoadedModel:
    """A model whose forward pass the engine may trust.

    Attributes:
        module: the transformers model, in eval mode.
        shape: its counts.
        windows: one a layer: the sliding window the model itself puts there, None for none.
        eos_token_ids: tokens that end an answer.
        device, dtype: where and in what precision it runs.
        ranks: the processes that share it.
    """

    module: torch.nn.Module
    shape: ModelShape
    windows: tuple[int | None, ...]
    eos_token_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE

    @property
    def shard(self) -> ModelShape:
        """The counts of what this rank has of the model."""
        return self.shape.shard(self.ranks.size)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [S, V] of the rows the batch wants.

        Raises:
            torch.OutOfMemoryError: the device is full.
            RankError: so is one of several: the others are in the middle of the pass and cannot be called back.
        """
        try:
            logits: Tensor = self.module(
                input_ids=batch.input_ids[None],
                position_ids=batch.positions[None],
                use_cache=False,
                logits_to_keep=batch.logit_rows,
                batch=Running(batch),
            ).logits
        except torch.OutOfMemoryError as error:
            if self.ranks.size == 1:
                raise
            raise RankError(f"rank {self.ranks.rank}: lower engine.memory_fraction or kv_memory: {error}") from error
        return logits[0]


def load_model(
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    ranks: Ranks = ALONE,
) -> LoadedModel:
    """Load a local folder or hub id, or a rank's share of it; safetensors only.

    Raises:
        ModelLoadError: nothing there, or unreadable weights.
        UnsupportedModelError: the engine would compute it wrongly; the message names the feature.
    """
    config = load_config(path, revision, trust_remote_code)
    refuse_unsupported(config, max_model_len, ranks.size)
    shards = {} if ranks.size == 1 else {"distributed_config": DistributedConfig(tp_size=ranks.size)}
    try:
        module = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True, revision=revision,
            trust_remote_code=trust_remote_code, **shards,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if "does not support" in str(error) and "attention" in str(error).lower():
            raise UnsupportedModelError(
                f"{config.model_type}: does not call its attention through an interface"
            ) from error
        raise ModelLoadError(f"model.name: cannot load the weights of {path!r}: {error}") from error
    module.eval().to(device)
    shape = ModelShape.from_config(config)
    windows = probe(module, shape.shard(ranks.size), config.model_type)
    speed_up(module, ranks.size)
    eos = getattr(module.generation_config, "eos_token_id", None)
    eos = config.eos_token_id if eos is None else eos
    ids = frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)
    return LoadedModel(module, shape, windows, ids, device, dtype, ranks)


def speed_up(module: torch.nn.Module, num_shards: int = 1) -> None:
    """Bound what an MLP needs for a long prompt, and on a GPU compile the layers, in place.

    Layers that talk to other GPUs are left uncompiled: collectives in compiled code have not been measured.
    """
    slice_rows(module)
    if num_shards == 1 and next(module.parameters()).device.type == "cuda":
        fuse(module)


def refuse_unsupported(config: Any, max_model_len: int | None = None, num_shards: int = 1) -> None:
    """Refuse by name what a config already tells.

    Raises:
        UnsupportedModelError: see the message.
    """

    def refuse(feature: str) -> None:
        raise UnsupportedModelError(f"{config.model_type}: {feature} is not supported")

    if getattr(config, "is_encoder_decoder", False):
        refuse("an encoder-decoder model")
    if getattr(config, "kv_lora_rank", None):
        refuse("multi-head latent attention (kv_lora_rank)")
    if getattr(config, "num_kv_shared_layers", 0):
        refuse("layers that borrow another layer's keys and values (num_kv_shared_layers)")
    if getattr(config, "use_bidirectional_attention", None):
        refuse("bidirectional attention (use_bidirectional_attention)")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        refuse(f"a layer of type {', '.join(sorted(kinds))}")
    _refuse_rope(config, refuse, max_model_len)
    if num_shards == 1:
        return
    shape = ModelShape.from_config(config)
    if shape.num_kv_heads % num_shards or shape.num_heads % num_shards:
        refuse(
            f"engine.tensor_parallel of {num_shards}, which {shape.num_heads} query heads and {shape.num_kv_heads} kv "
            f"heads cannot be split into evenly,"
        )
    if not getattr(config, "base_model_tp_plan", None):
        refuse(f"engine.tensor_parallel of {num_shards} for a model without a tensor-parallel plan in transformers")


def _refuse_rope(config: Any, refuse: Callable[[str], None], max_model_len: int | None) -> None:
    """Rotary frequencies that depend on the longest sequence of a batch would depend on a document's neighbours."""
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type", "default")
        original = parameters.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if kind == "dynamic":
            refuse("rope_type dynamic, whose frequencies change with the longest sequence of a batch,")
        if kind == "longrope" and not (max_model_len and original and max_model_len <= original):
            refuse(
                f"rope_type longrope beyond its original context, where frequencies change with the longest sequence "
                f"of a batch (engine.max_model_len of at most {original} keeps below), "
            )


class _Probe:
    """A batch that attends densely, prompt by prompt, and notes what each layer asked for."""

    def __init__(self, prompts: Sequence[Tensor]) -> None:
        self.lengths = [len(prompt) for prompt in prompts]
        self.input_ids = torch.cat(list(prompts))
        self.positions = torch.cat([torch.arange(n, device=self.input_ids.device) for n in self.lengths])
        self.logit_rows = torch.arange(len(self.input_ids), device=self.input_ids.device)
        self.calls: list[tuple[int, AttentionFeatures, int, int, int]] = []

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention of each prompt by itself."""
        self.calls.append((layer, features, key_KTD.shape[0], key_KTD.shape[-1], value_KTD.shape[-1]))
        outs = [
            causal_attention(q, k, v, features.scale, features.softcap, features.window, features.sink_H)[0]
            for q, k, v in zip(*(x.split(self.lengths, dim=1) for x in (query_HTD, key_KTD, value_KTD)), strict=True)
        ]
        return torch.cat(outs, dim=1)


@torch.inference_mode()
def probe(module: torch.nn.Module, shape: ModelShape, model_type: str) -> tuple[int | None, ...]:
    """Run a small packed batch, compare it with the model's own eager attention, and read off the layers' windows.

    Raises:
        UnsupportedModelError: layers without attention of their own, widths that differ, or other logits.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(module.parameters()).device
    prompts = [torch.randint(shape.vocab_size, (n,), generator=generator).to(device) for n in _PROBE_LENGTHS]
    batch = _Probe(prompts)
    try:
        packed = module(
            input_ids=batch.input_ids[None], position_ids=batch.positions[None], use_cache=False, batch=Running(batch)
        ).logits[0]
    except TypeError as error:
        raise UnsupportedModelError(
            f"{model_type}: does not pass the engine's batch to its attention: {error}"
        ) from error
    _check_layers(batch, shape, model_type)
    module.set_attn_implementation("eager")  # type: ignore[operator]
    own = torch.cat([module(input_ids=prompt[None], use_cache=False).logits[0] for prompt in prompts])
    module.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    distance = ((packed.float() - own.float()).norm() / own.float().norm()).item()
    if not distance <= _TOLERANCE[packed.dtype]:
        raise UnsupportedModelError(
            f"{model_type}: a packed forward gives other logits than the model's own attention "
            f"(relative distance {distance:.2g}, at most {_TOLERANCE[packed.dtype]:.2g} is rounding)"
        )
    windows: list[int | None] = [None] * shape.num_layers
    for layer, features, *_ in batch.calls:
        windows[layer] = features.window
    return tuple(windows)


def _check_layers(batch: _Probe, shape: ModelShape, model_type: str) -> None:
    """Every layer must attend once, with the widths the cache is built for."""
    layers = [call[0] for call in batch.calls]
    if sorted(layers) != list(range(shape.num_layers)):
        raise UnsupportedModelError(
            f"{model_type}: {shape.num_layers} layers, of which {sorted(set(layers))} keep keys and values; "
            "layers without (state-space, shared) are not supported"
        )
    for layer, _, num_kv_heads, key_width, value_width in batch.calls:
        found, wanted = (num_kv_heads, key_width, value_width), (shape.num_kv_heads, shape.head_dim, shape.head_dim)
        if found != wanted:
            raise UnsupportedModelError(
                f"{model_type}: layer {layer} has (kv heads, key width, value width) {found}, expected {wanted}"
            )
