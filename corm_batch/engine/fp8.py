"""Fp8Linear: a linear layer whose weights take a byte each; which layers become one, and what runs otherwise.

Its weights come from quantising others, or as a checkpoint has stored them. Where it cannot run as a product of 8-bit
numbers it is the linear layer that its values say, in the model's dtype. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from corm_batch.engine.fusion import decoder_layers
from corm_batch.errors import ModelLoadError, UnsupportedModelError
from corm_batch.ops.scaled import (
    BLOCK,
    WIDTH_UNIT,
    dequantize,
    has_block_product,
    has_scaled_products,
    is_by_row,
    quantize_rows,
    scaled_linear,
)

_ROUTERS = ("gate", "router", "shared_expert_gate")
"""Leaf names of what chooses experts: peers leave it as it is, for it is small and decides much."""


class Fp8Linear(nn.Linear):
    """A linear layer of e4m3 weights with a scale for every row, or for every block of 128 by 128.

    Args:
        in_features, out_features, bias, device: as `torch.nn.Linear`.
        dtype: of the bias, and of the weights until `quantize` or a checkpoint has brought others.

    Attributes:
        weight_scale: see `corm_batch.ops.scaled.scaled_product`; None: the weights are in the model's dtype.
        input_scale: of every input, as a checkpoint has measured it; None: measured row by row as it comes.
        quantizes_input: False while the layer is to be an ordinary one of the values its weights stand for.
    """

    weight_scale: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.register_buffer("weight_scale", None)
        self.register_buffer("input_scale", None)
        self.quantizes_input = True

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return self.multiply(input, self.weight, self.weight_scale, self.bias)

    def multiply(self, input: Tensor, weight: Tensor, weight_scale: Tensor | None, bias: Tensor | None) -> Tensor:
        """`forward` with the layer's weights, or some rows of them."""
        if weight_scale is None:
            return linear(input, weight, bias)
        if not self.quantizes_input:
            return linear(input, dequantize(weight, weight_scale).to(input.dtype), bias)
        out = scaled_linear(input, weight, weight_scale, self.input_scale)
        return out if bias is None else out + bias

    @torch.no_grad()
    def quantize(self, weight: Tensor) -> None:
        """Take the numbers closest to `weight`, [N, K], on its device."""
        number, self.weight_scale = quantize_rows(weight)
        self.weight = nn.Parameter(number, requires_grad=False)

    @torch.no_grad()
    def settle(self, dtype: torch.dtype, why: str | None = None) -> str | None:
        """Make what a checkpoint has stored, on the device where it is, what runs; why not in 8 bits, if so.

        Args:
            dtype: of the model.
            why: what keeps stored weights from being multiplied in 8 bits, if anything does.

        Raises:
            ModelLoadError: scales that suit neither rows nor blocks of the weights.
        """
        if self.weight_scale is None:
            return None
        weight, rows, columns = _share(self.weight)
        scale = _tidy(self.weight_scale, self.weight.shape)
        by_row = is_by_row(self.weight, scale)
        if self.input_scale is not None:
            if self.input_scale.numel() > 1 or not by_row:
                raise ModelLoadError(
                    f"model.name: a stored scale of inputs of the shape {tuple(self.input_scale.shape)}: expected one "
                    "number, beside weights with one scale or one a row"
                )
            self.input_scale = self.input_scale.float().reshape(1)
        self.weight_scale = scale[rows] if by_row else scale[rows[::BLOCK] // BLOCK][:, columns[::BLOCK] // BLOCK]
        if why is not None:
            pass
        elif any(width % WIDTH_UNIT for width in weight.shape):
            why = f"a width is not divisible by {WIDTH_UNIT}"
        elif not by_row and (rows[0] % BLOCK or columns[0] % BLOCK):
            why = f"a rank's share does not begin with a block of {BLOCK} by {BLOCK}"
        elif not by_row and not has_block_product(weight, self.weight_scale):
            why = "this GPU with this torch has no product of such blocks"
        else:
            return None
        spread = scale[rows] if by_row else scale[rows // BLOCK][:, columns // BLOCK]
        self._put((weight.float() * spread).to(dtype))
        self.weight_scale = self.input_scale = None
        return why

    def _put(self, weight: Tensor) -> None:
        """Set this rank's weights."""
        if isinstance(self.weight.data, DTensor):
            whole = self.weight.data
            weight = DTensor.from_local(weight, whole.device_mesh, whole.placements, run_check=False)
        self.weight = nn.Parameter(weight, requires_grad=False)


def _share(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's part of weights [N, K], and the numbers of its rows and of its columns."""
    mine, starts = weight.detach(), [0, 0]
    if isinstance(mine, DTensor):
        rank, (placement,) = mine.device_mesh.get_local_rank(), mine.placements
        mine = mine.to_local()
        if isinstance(placement, Shard):
            starts[placement.dim] = rank * mine.shape[placement.dim]  # shares are even: the config was checked
    rows, columns = (
        torch.arange(start, start + width, device=mine.device) for start, width in zip(starts, mine.shape, strict=True)
    )
    return mine, rows, columns


def _tidy(scale: Tensor, shape: torch.Size) -> Tensor:
    """Scales as checkpoints write them, as [N, 1] or [blocks of N, blocks of K] float32."""
    blocks = tuple(-(-width // BLOCK) for width in shape)
    if scale.numel() == 1:
        return scale.float().reshape(1, 1).expand(shape[0], 1).contiguous()
    if tuple(scale.shape) in ((shape[0],), (shape[0], 1)):
        return scale.float().reshape(-1, 1)
    if tuple(scale.shape) == blocks:
        return scale.float()
    raise ModelLoadError(
        f"model.name: scales of the shape {tuple(scale.shape)} for weights of the shape {tuple(shape)}: expected one, "
        f"one a row, or one for each {BLOCK} by {BLOCK}"
    )


def quantizable(module: nn.Module, num_shards: int = 1) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of a model's decoder blocks that may become an `Fp8Linear`, by name.

    Not among them: what chooses experts, experts that are stacked in one weight, output head, and layers a width of
    which, on one of `num_shards` ranks, is no multiple of 16.
    """
    inside = {id(part) for layer in decoder_layers(module) for part in layer.modules()}
    for name, part in module.named_modules():
        if type(part) in (nn.Linear, Fp8Linear) and id(part) in inside and name.rpartition(".")[2] not in _ROUTERS:
            if part.in_features % (WIDTH_UNIT * num_shards) or part.out_features % (WIDTH_UNIT * num_shards):
                continue
            yield name, part


def replace(module: nn.Module, name: str, dtype: torch.dtype) -> Fp8Linear:
    """Put an `Fp8Linear` without weights where the linear layer `name` was."""
    old = module.get_submodule(name)
    assert isinstance(old, nn.Linear)
    new = Fp8Linear(old.in_features, old.out_features, old.bias is not None, dtype, old.weight.device)
    if old.bias is not None:
        new.bias = old.bias
    module.set_submodule(name, new)
    return new


def quantize_linears(module: nn.Module, device: torch.device) -> None:
    """Quantise the linear layers of a loaded model's decoder blocks on `device`, one after the other, in place.

    Raises:
        UnsupportedModelError: it has none.
    """
    layers = list(quantizable(module))
    refuse_none(module, layers)
    for name, old in layers:
        weight = old.weight.to(device)
        old.weight = nn.Parameter(weight.new_empty(0, device="meta"), requires_grad=False)
        replace(module, name, weight.dtype).quantize(weight)


@contextmanager
def exact_inputs(module: nn.Module) -> Iterator[None]:
    """Have no input quantised while the block runs: what differs then is nothing that quantising has amplified."""
    layers = [part for part in module.modules() if isinstance(part, Fp8Linear)]
    for layer in layers:
        layer.quantizes_input = False
    try:
        yield
    finally:
        for layer in layers:
            layer.quantizes_input = True


def about_quantizing(config: Any, num_shards: int = 1) -> str:
    """What of a model is quantised as it is loaded, in one sentence, from its text config alone.

    Raises:
        UnsupportedModelError: nothing is.
    """
    what = "the linear layers of its decoder blocks"
    try:
        with torch.device("meta"), no_init_weights():
            module = AutoModelForCausalLM.from_config(config)
    except Exception:  # a class of somebody else's, which transformers may not make without its code
        return f"the model is quantised to fp8 as it is loaded: {what}"
    layers = list(quantizable(module, num_shards))
    refuse_none(module, layers)
    share = sum(part.weight.numel() for _, part in layers) / sum(part.numel() for part in module.parameters())
    found = f"{share:.0%} of the model's weights are quantised to fp8 as it is loaded: {what}"
    linears = [part for block in decoder_layers(module) for part in block.modules() if type(part) is nn.Linear]
    left = len(linears) - len(layers)
    return f"{found}, but for {left} of {len(linears)}, of widths not divisible by {WIDTH_UNIT}" if left else found


def refuse_none(module: nn.Module, layers: list[tuple[str, nn.Linear]]) -> None:
    """Refuse a model without layers to quantise.

    Raises:
        UnsupportedModelError: it is one.
    """
    if not layers:
        raise UnsupportedModelError(
            f"model.weights: fp8: {type(module).__name__} has no linear layers whose widths are divisible by "
            f"{WIDTH_UNIT} in a list of decoder blocks"
        )


def refuse_old_gpu(device: torch.device, what: str) -> None:
    """Refuse a GPU without 8-bit products.

    Args:
        device: where the model is to run.
        what: begins the message.

    Raises:
        UnsupportedModelError: it is one.
    """
    if not has_scaled_products(device):
        name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        raise UnsupportedModelError(
            f"{what} needs a GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell): {name} has "
            f"{major}.{minor}"
        )
