"""Load a model with 8-bit weights: quantised one by one as they are read, or as a checkpoint has stored them.

Which weights are stored so, and with scales of what shape, the files themselves say. What runs is `Fp8Linear`'s.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoConfig
from transformers.core_model_loading import ConversionOps, WeightRenaming
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from corm_batch.engine.checkpoint import Checkpoint
from corm_batch.engine.fp8 import Fp8Linear, quantizable, refuse_none, replace
from corm_batch.errors import ModelLoadError
from corm_batch.ops.scaled import FP8, quantize_rows

METHOD = "corm_batch_fp8"
_log = logging.getLogger(__name__)
_STORED_AS = "F8_E4M3"


@register_quantization_config(METHOD)
class Fp8Config(QuantizationConfigMixin):
    """What transformers is told, so that `Fp8Quantizer` loads the weights.

    Args:
        device: where weights are quantised that a checkpoint has not stored so.
        num_shards: ranks that share the model.
        static_inputs: the checkpoint has scales of the inputs.
    """

    def __init__(self, device: str = "cpu", num_shards: int = 1, static_inputs: bool = False, **kwargs: Any) -> None:
        self.quant_method: Any = METHOD
        self.device, self.num_shards, self.static_inputs = device, num_shards, static_inputs


@register_quantizer(METHOD)
class Fp8Quantizer(HfQuantizer):
    """Puts an `Fp8Linear` where a linear layer's weights are stored in e4m3, or are to be quantised."""

    requires_calibration = False
    quantization_config: Fp8Config

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] = (), **kwargs: Any
    ) -> None:
        if self.pre_quantized:
            _expect_stored(model, _headers(checkpoint_files), self.quantization_config.static_inputs)
            return
        layers = list(quantizable(model, self.quantization_config.num_shards))
        refuse_none(model, layers)
        for name, _ in layers:
            replace(model, name, model.config.dtype)

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether this is a weight to be quantised as it is read."""
        name, _, leaf = param_name.rpartition(".")
        return not self.pre_quantized and leaf == "weight" and isinstance(model.get_submodule(name), Fp8Linear)

    def get_quantize_ops(self) -> ConversionOps:
        """What quantises it."""
        return _Quantize(self.quantization_config.device)

    def get_weight_conversions(self) -> list[Any]:
        """Scales go by two names each."""
        return [WeightRenaming("weight_scale_inv", "weight_scale"), WeightRenaming("activation_scale", "input_scale")]

    def is_serializable(self) -> bool:
        """Nothing is written."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Nothing is trained."""
        return False


class _Quantize(ConversionOps):
    """Numbers in place of weights; the layers keep the scales.

    Args:
        device: where it is done.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def convert(self, input_dict: Mapping[str, Any], *, model: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The tensors read, by name."""
        converted: dict[str, Tensor] = {}
        for name, found in input_dict.items():
            weight: Tensor = found[0] if isinstance(found, list) else found
            owner, _, leaf = name.rpartition(".")
            layer = model.get_submodule(owner)
            if isinstance(layer, Fp8Linear) and leaf == "weight":
                whole = layer.weight.data
                expected = whole.to_local().shape if isinstance(whole, DTensor) else whole.shape
                if weight.shape != expected:  # transformers does not look where it quantises
                    raise ValueError(
                        f"{name}: the shape {tuple(weight.shape)}, not {tuple(expected)} as the config says"
                    )
                weight, layer.weight_scale = quantize_rows(weight.to(self.device))
            converted[name] = weight
        return converted


def _headers(files: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
    """Number format and shape of every tensor in safetensors files, by name."""
    found = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                tensor = opened.get_slice(key)
                found[key] = tensor.get_dtype(), tensor.get_shape()
    return found


def _expect_stored(model: Any, headers: Mapping[str, tuple[str, list[int]]], static_inputs: bool) -> None:
    """Make room for what is stored in e4m3, on the meta device, wherever a linear layer is.

    Raises:
        ModelLoadError: scales are missing, or something stored so is no linear layer's weight.
    """
    stored = {key for key, (number_format, _) in headers.items() if number_format == _STORED_AS}
    for name in [name for name, part in model.named_modules() if type(part) is nn.Linear]:
        if f"{name}.weight" not in stored:
            continue
        stored.remove(f"{name}.weight")
        layer = replace(model, name, model.config.dtype)
        layer.weight = nn.Parameter(torch.empty_like(layer.weight, dtype=FP8), requires_grad=False)
        layer.weight_scale = _room(headers, name, ("weight_scale", "weight_scale_inv"))
        if static_inputs:
            layer.input_scale = _room(headers, name, ("input_scale", "activation_scale"))
    if stored:
        raise ModelLoadError(
            f"model.name: {min(stored)!r} is stored in fp8 and is not the weight of a linear layer of "
            f"{type(model).__name__}: that is not supported"
        )


def _room(headers: Mapping[str, tuple[str, list[int]]], layer: str, leaves: Sequence[str]) -> Tensor:
    """An empty float32 tensor for a layer's scales, as large as those in the file."""
    for leaf in leaves:
        if (found := headers.get(f"{layer}.{leaf}")) is not None:
            return torch.empty(found[1], device="meta")
    raise ModelLoadError(f"model.name: the weights lack {layer}.{leaves[0]}: {layer}.weight is stored in fp8")


def as_stored(checkpoint: Checkpoint, static_inputs: bool, trust_remote_code: bool) -> Any:
    """The config of a checkpoint with weights in e4m3, for which transformers then calls an `Fp8Quantizer`."""
    config = AutoConfig.from_pretrained(
        checkpoint.weights, revision=checkpoint.revision, trust_remote_code=trust_remote_code
    )
    for part in (config, config.get_text_config(decoder=True)):
        part.quantization_config = Fp8Config(static_inputs=static_inputs).to_dict()
    return config


def settle(module: Any, dtype: torch.dtype, why: str | None = None) -> None:
    """Make a loaded model's 8-bit layers, on their device, what runs.

    Args:
        module: as transformers has loaded it with an `Fp8Quantizer`.
        dtype: what it runs in otherwise.
        why: what keeps stored weights from being multiplied in 8 bits, if anything does.

    Raises:
        ModelLoadError: see `Fp8Linear.settle`.
    """
    layers = [part for part in module.modules() if isinstance(part, Fp8Linear)]
    reasons = Counter(found for layer in layers if (found := layer.settle(dtype, why)))
    for reason, count in reasons.items():
        _log.warning("%d of %d linear layers stored in fp8 run in %s: %s", count, len(layers), dtype, reason)


def make_plain(module: Any) -> None:
    """Let transformers forget that a quantizer of this package's has loaded the model."""
    if (quantizer := getattr(module, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(module)
