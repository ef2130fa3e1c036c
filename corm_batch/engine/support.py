"""refuse_unsupported(): what a model's config already tells of features that break a packed, paged forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.storage.base import Storage


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
    if isinstance(told := getattr(config, "pod", None), dict) and not told.get("trained"):
        refuse(
            "a model converted by pod and not trained since (its layers see distant tokens by other layers' keys, "
            "which they have to learn: python -m infra.training.heal JOB FOLDER OUTPUT)"
        )
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


def refuse_beside_groups(shape: ModelShape, config: EngineConfig) -> None:
    """Refuse what cannot be had where layers share keys of distant tokens.

    Raises:
        SpecError: the settings have it.
    """
    if shape.groups is None:
        return
    if config.propagation is not None:
        raise SpecError(
            f"engine.propagation: {config.propagation.name}: not with a model whose layers share keys of distant "
            "tokens (pod): it leaves tokens behind between layers, and these would have no value beside their key"
        )
    if config.storage is not None and config.storage.low_rank:
        raise SpecError(
            f"engine.storage: {config.storage.name}: not with a model whose layers share keys of distant tokens (pod): "
            "its directions are a layer's own, found for its keys and values together"
        )


def refuse_outliers(module: torch.nn.Module, storage: Storage) -> None:
    """Refuse a form of storage that would round a model's keys beside a number of theirs that is always far larger.

    Raises:
        UnsupportedModelError: the model's keys have a larger bias than the form bears, or their norm a weight that is
            so many times the median one.
    """
    if storage.most_bias == torch.inf:
        return
    found = [("", 0.0, "")]
    for name, part in module.named_modules():
        if name.endswith("k_proj") and getattr(part, "bias", None) is not None:
            found.append((name, float(part.bias.detach().abs().max()), "a bias of"))
        elif name.endswith("k_norm") and getattr(part, "weight", None) is not None:
            weight = part(torch.ones_like(part.weight)).detach().float().abs()  # some add 1 to what they store
            found.append((name, float(weight.max() / weight.median()), "a weight that is, in medians,"))
    name, largest, what = max(found, key=lambda one: one[1])
    if largest > storage.most_bias:
        raise UnsupportedModelError(
            f"engine.storage: {storage.name} rounds a key by its largest number, and {name} has {what} "
            f"{largest:.0f} where {storage.most_bias:g} leaves the others their digits; fp8 and model hold such keys"
        )


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
