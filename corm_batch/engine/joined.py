"""join_projections(): projections of one input become rows of one tensor, of which compiled layers make one product.

A decode step's products are bound by how much of a GPU they fill, and those of keys and of values are small. Each
projection still works by itself, as an uncompiled layer needs it, and one that idles leaves the others theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from corm_batch.engine.fp8 import Fp8Linear
from corm_batch.engine.fusion import decoder_layers, rows_of
from corm_batch.ops.scaled import BLOCK, has_block_product, is_by_row

_PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class Part(nn.Module):
    """Some rows of a linear layer as one of their own, of whose numbers it has no copy.

    Args:
        whole: the layer.
        start, stop: which rows; of weights with a scale a block, whole blocks.
    """

    def __init__(self, whole: Fp8Linear, start: int, stop: int) -> None:
        super().__init__()
        self.whole, self.start, self.stop = whole, start, stop

    @property
    def weight(self) -> Tensor:
        """[stop - start, K]."""
        return rows_of(self.whole.weight, self.start, self.stop)

    @property
    def weight_scale(self) -> Tensor | None:
        """Of these weights, as `Fp8Linear.weight_scale`."""
        scale = self.whole.weight_scale
        if scale is None:
            return None
        unit = 1 if is_by_row(self.whole.weight, scale) else BLOCK
        return rows_of(scale, self.start // unit, self.stop // unit)

    @property
    def bias(self) -> Tensor | None:
        """[stop - start]."""
        return None if self.whole.bias is None else rows_of(self.whole.bias, self.start, self.stop)

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., stop - start]."""
        return self.whole.multiply(input, self.weight, self.weight_scale, self.bias)


@torch.no_grad()
def join_projections(module: nn.Module) -> None:
    """Put the weights of a loaded model's queries, keys and values into one tensor each layer, and those of gate and
    up, in place; one after the other, so that no two layers' are held twice at a time.

    Those that differ in form stay apart: in dtype, in having biases, in the granularity of scales or the scale of
    inputs, or where a block of 128 rows would be of two.

    Args:
        module: a transformers model, whole on its device.
    """
    parts = [part for layer in decoder_layers(module) for part in layer.modules()]
    owners = [(part, names) for part in parts for names in _PROJECTIONS if hasattr(part, names[0])]
    del parts  # which would keep what is joined
    for owner, names in owners:
        _join(owner, names)


def _join(owner: nn.Module, names: Sequence[str]) -> None:
    """Join some projections of a module, if they can be."""
    layers: list[Any] = [getattr(owner, name, None) for name in names]
    if any(type(layer) not in (nn.Linear, Fp8Linear) for layer in layers) or len(set(map(_form, layers))) > 1:
        return
    widths, first = [layer.out_features for layer in layers], layers[0]
    scale = getattr(first, "weight_scale", None)
    in_blocks = scale is not None and not is_by_row(first.weight, scale)
    if in_blocks and any(width % BLOCK for width in widths):
        return
    whole = Fp8Linear(first.in_features, sum(widths), first.bias is not None, first.weight.dtype, "meta")
    whole.weight = nn.Parameter(_stacked([layer.weight for layer in layers]), requires_grad=False)
    if first.bias is not None:
        whole.bias = nn.Parameter(_stacked([layer.bias for layer in layers]), requires_grad=False)
    if scale is not None:
        scales = _stacked([layer.weight_scale for layer in layers])
        if in_blocks and not has_block_product(whole.weight, scales):
            return
        whole.weight_scale, whole.input_scale = scales, first.input_scale
    start = 0
    for name, width in zip(names, widths, strict=True):
        setattr(owner, name, Part(whole, start, start + width))
        start += width


def _form(layer: Any) -> tuple[Any, ...]:
    """What is the same of layers that can be one."""
    weight, scale, input_scale = layer.weight, getattr(layer, "weight_scale", None), getattr(layer, "input_scale", None)
    by_row = scale is not None and is_by_row(weight, scale)
    biased, known_inputs = layer.bias is not None, None if input_scale is None else float(input_scale)
    return weight.shape[1], weight.dtype, weight.device, biased, scale is None, by_row, known_inputs


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other; a GPU copies numbers of 8 bits, which it may not concatenate."""
    heights = [len(tensor) for tensor in tensors]
    whole = tensors[0].new_empty(sum(heights), *tensors[0].shape[1:])
    for rows, tensor in zip(whole.split(heights), tensors, strict=True):
        rows.copy_(tensor)
    return whole
