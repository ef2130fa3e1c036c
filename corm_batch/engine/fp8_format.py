"""What a model's config says of 8-bit weights, before anything is loaded.

Two formats are known here: compressed-tensors' 8-bit floating point, and `fp8` with one scale a weight, or one for each
block of 128 by 128 (DeepSeek, Qwen3-FP8). Others are transformers' own business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from corm_batch.engine.checkpoint import quantization
from corm_batch.engine.config import WeightForm
from corm_batch.errors import UnsupportedModelError
from corm_batch.ops.scaled import BLOCK

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class StoredFp8:
    """How a checkpoint that stores weights in e4m3 wants them run.

    Attributes:
        method: by which it was made, as its config says.
        inputs: quantised row by row as they come, with a scale from the checkpoint, or not at all.
    """

    method: str
    inputs: Literal["dynamic", "static", "none"]

    def __str__(self) -> str:
        how = {"dynamic": "row by row", "static": "by the checkpoint's own scales", "none": "not"}[self.inputs]
        return f"the weights are stored in fp8 ({self.method}) and stay so; inputs are quantised {how}"


def stored_fp8(config: Any) -> StoredFp8 | None:
    """What a model's config says of weights stored in e4m3; None where there are none, or in a form not known here.

    Experts are not known here: they are stacked in weights that are no linear layers.
    """
    settings = getattr(config, "quantization_config", None)
    if not isinstance(settings, Mapping) or any(getattr(config, name, None) for name in _EXPERTS):
        return None
    method = quantization(config)
    if method == "fp8":
        blocks, scheme = settings.get("weight_block_size"), settings.get("activation_scheme", "dynamic")
        known = blocks in (None, [BLOCK, BLOCK], (BLOCK, BLOCK)) and settings.get("fmt", "e4m3") == "e4m3"
        return StoredFp8(method, scheme) if known and scheme in ("dynamic", "static") else None
    if method != "compressed-tensors":
        return None
    groups = settings.get("config_groups") or {}
    inputs = {_inputs_of_group(group) for group in groups.values()} if isinstance(groups, Mapping) else set()
    return StoredFp8(method, found) if len(inputs) == 1 and (found := inputs.pop()) else None


def _inputs_of_group(group: Any) -> Literal["dynamic", "static", "none"] | None:
    """How one group of compressed-tensors' layers takes its inputs; None for weights that are not e4m3."""

    def is_fp8(part: Any) -> TypeGuard[Mapping[str, Any]]:
        return isinstance(part, Mapping) and (part.get("num_bits"), part.get("type")) == (8, "float")

    if not isinstance(group, Mapping) or not is_fp8(weights := group.get("weights")):
        return None
    size = weights.get("block_structure")
    if weights.get("strategy") not in ("tensor", "channel", "block") or size not in (None, [BLOCK, BLOCK]):
        return None
    if (inputs := group.get("input_activations")) is None:
        return "none"
    if not is_fp8(inputs):
        return None
    return "dynamic" if inputs.get("dynamic") else "static"


def foreign_quantization(config: Any) -> str | None:
    """The method by which a checkpoint is quantised that transformers, or a library of its choice, has to load."""
    return quantization(config) if stored_fp8(config) is None else None


def refuse_quantizing(config: Any, weights: WeightForm) -> None:
    """Refuse to quantise what is quantised in another way already.

    Raises:
        UnsupportedModelError: it is.
    """
    if weights == "fp8" and (method := foreign_quantization(config)):
        raise UnsupportedModelError(
            f"model.weights: fp8: the checkpoint is quantised with {method} already; stored takes it as it is"
        )
