"""Products of 8-bit floating-point numbers (e4m3) that carry scales: a linear layer whose weights take a byte each.

A value is its number times the scale of the row it stands in (`quantize_rows`), or of the block: 128 of a row of the
input, 128 rows by 128 columns of the weights (`quantize_blocks`). On a GPU of compute capability 8.9 and newer the
product runs on the numbers, by torch's own kernels, whose names live in this file alone: they may move. Elsewhere it is
`scaled_product`, the definition. Numbers of rows come from a kernel of ours there: a compiler reads each row once for
its scale and once more for its numbers, and takes three times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, silu

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
BLOCK = 128
WIDTH_UNIT = 16
"""Both widths of the weights have to be multiples of it: tensor cores take no others."""

_LEAST_SCALE = torch.finfo(torch.float32).tiny  # of a row of zeros


def quantize_rows(value: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Numbers and scales whose products come closest to the values.

    Args:
        value: [..., K], any floating dtype.
        scale: one for all rows, as a checkpoint has measured it; None for each row's own, from its largest value.

    Returns:
        numbers [..., K] e4m3, scales [..., 1] float32.
    """
    wide = value.float()
    if scale is None:
        row_scale = (wide.abs().amax(dim=-1, keepdim=True) / FP8_MAX).clamp(min=_LEAST_SCALE)
    else:
        row_scale = scale.float().expand(*value.shape[:-1], 1).contiguous()
    return (wide / row_scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), row_scale


@torch.library.custom_op("corm_batch::measured_rows", mutates_args=(), device_types="cpu")
def measured_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` by each row's own scale, as one node of a graph and one kernel on a GPU."""
    return quantize_rows(value)


@torch.library.custom_op("corm_batch::gated_rows", mutates_args=(), device_types="cpu")
def gated_rows(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """`measured_rows` of SwiGLU, silu(gate) * up in float32: in one kernel on a GPU, nothing of it in memory.

    Args:
        gate, up: [..., K] of one shape and dtype; rows may lie apart.

    Returns:
        numbers [..., K] e4m3, scales [..., 1] float32.
    """
    return quantize_rows(silu(gate.float()) * up.float())


@measured_rows.register_kernel("cuda")
def _(value: Tensor) -> tuple[Tensor, Tensor]:
    from corm_batch.ops.kernels import scaled  # torch for CPU has no triton

    return scaled.measured_rows(value)


@gated_rows.register_kernel("cuda")
def _(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    from corm_batch.ops.kernels import scaled

    return scaled.gated_rows(gate, up)


@measured_rows.register_fake
def _(value: Tensor) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape, dtype=FP8), value.new_empty((*value.shape[:-1], 1), dtype=torch.float32)


@gated_rows.register_fake
def _(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape, dtype=FP8), gate.new_empty((*gate.shape[:-1], 1), dtype=torch.float32)


def quantize_blocks(value: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantize_rows`, with a scale for every 128 values of a row.

    Args:
        value: [..., K], any floating dtype.

    Returns:
        numbers [..., K] e4m3, scales [..., ceil(K / 128)] float32.
    """
    width = value.shape[-1]
    blocks = pad(value.float(), (0, -width % BLOCK)).unflatten(-1, (-1, BLOCK))
    scale = (blocks.abs().amax(dim=-1, keepdim=True) / FP8_MAX).clamp(min=_LEAST_SCALE)
    number = (blocks / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return number.flatten(-2)[..., :width], scale.squeeze(-1)


def dequantize(number: Tensor, scale: Tensor) -> Tensor:
    """The values that numbers stand for, float32.

    Args:
        number: [R, K] e4m3.
        scale: one a row [R, 1], one for 128 of a row [R, ceil(K / 128)], or one a block [ceil(R / 128), ceil(K / 128)].
    """
    rows, width = number.shape
    if scale.shape[0] != rows:
        scale = scale.repeat_interleave(BLOCK, dim=0)[:rows]
    if scale.shape[1] != 1:
        scale = scale.repeat_interleave(BLOCK, dim=1)[:, :width]
    return number.float() * scale.float()


def scaled_product(number_TK: Tensor, scale: Tensor, weight_NK: Tensor, weight_scale: Tensor) -> Tensor:
    """The definition: the product of the values that the numbers stand for, in float32.

    Args:
        number_TK, scale: of the input, as `quantize_rows` or `quantize_blocks` gives them.
        weight_NK, weight_scale: e4m3 with a scale a row [N, 1], or a block [ceil(N / 128), ceil(K / 128)].

    Returns:
        [T, N] float32.
    """
    if is_by_row(weight_NK, weight_scale):  # the scales of a row are the same for all of its products
        return (number_TK.float() @ weight_NK.float().t()) * scale * weight_scale.t()
    return dequantize(number_TK, scale) @ dequantize(weight_NK, weight_scale).t()


def is_by_row(weight_NK: Tensor, weight_scale: Tensor) -> bool:
    """Whether every row of the weights has a scale, rather than every block."""
    return weight_scale.shape[0] == weight_NK.shape[0]


def scaled_linear(value: Tensor, weight_NK: Tensor, weight_scale: Tensor, input_scale: Tensor | None = None) -> Tensor:
    """A linear layer without bias: the input is quantised as its weights are, and multiplied with them.

    Args:
        value: [..., K], any floating dtype.
        weight_NK, weight_scale: as `scaled_product`.
        input_scale: of every input; None: measured row by row, or block by block.

    Returns:
        [..., N] in the input's dtype.
    """
    if not is_by_row(weight_NK, weight_scale):
        number, scale = quantize_blocks(value)
    elif input_scale is not None:
        number, scale = quantize_rows(value, input_scale)
    else:
        number, scale = measured_rows(value)
    return multiply_numbers(number, scale, weight_NK, weight_scale, value.dtype)


def multiply_numbers(
    number: Tensor, scale: Tensor, weight_NK: Tensor, weight_scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """`scaled_linear` of an input that has been quantised.

    Args:
        number, scale: of the input [..., K].
        weight_NK, weight_scale: as `scaled_product`.
        dtype: of what comes out.

    Returns:
        [..., N].
    """
    number_TK, scale = number.reshape(-1, number.shape[-1]), scale.reshape(-1, scale.shape[-1])
    if not number.is_cuda:
        product = scaled_product(number_TK, scale, weight_NK, weight_scale)
    elif is_by_row(weight_NK, weight_scale):
        product = row_product(number_TK, scale, weight_NK, weight_scale)
    else:
        product = block_product(number_TK, scale, weight_NK, weight_scale)
    out: Tensor = product.to(dtype).unflatten(0, number.shape[:-1])
    return out


def row_product(number_TK: Tensor, scale: Tensor, weight_NK: Tensor, weight_scale: Tensor) -> Tensor:
    """`scaled_product` of rows on a GPU, [T, N] bfloat16."""
    product: Tensor = torch._scaled_mm(
        number_TK, weight_NK.t(), scale, weight_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
    )
    return product


@torch.library.custom_op("corm_batch::block_product", mutates_args=())
def block_product(number_TK: Tensor, scale: Tensor, weight_NK: Tensor, weight_scale: Tensor) -> Tensor:
    """`scaled_product` of blocks by cuBLAS, [T, N] bfloat16; Hopper alone. Opaque to a compiler: it fixes strides.

    Raises:
        RuntimeError: this GPU, or its version of cuBLAS, has no such product, or none of these widths.
    """
    num_rows = number_TK.shape[0]
    beyond = (0, 0, 0, -num_rows % 4)  # rows come in fours
    number_TK = pad(number_TK.view(torch.uint8), beyond).view(FP8)
    scale = pad(scale, beyond).t().contiguous().t()
    product = torch._scaled_mm(number_TK, weight_NK.t(), scale, weight_scale.t(), out_dtype=torch.bfloat16)
    return product[:num_rows].clone()


@block_product.register_fake
def _(number_TK: Tensor, scale: Tensor, weight_NK: Tensor, weight_scale: Tensor) -> Tensor:
    return number_TK.new_empty((number_TK.shape[0], weight_NK.shape[0]), dtype=torch.bfloat16)


def has_scaled_products(device: torch.device) -> bool:
    """Whether linear layers can be scaled products there: a GPU of compute capability 8.9 or newer, or no GPU."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


@torch.inference_mode()
def has_block_product(weight_NK: Tensor, weight_scale: Tensor) -> bool:
    """Whether `block_product` gives what the definition gives for these weights, tried with a few rows."""
    if not weight_NK.is_cuda:
        return True
    generator = torch.Generator(weight_NK.device).manual_seed(0)
    value = torch.randn(5, weight_NK.shape[1], generator=generator, device=weight_NK.device)
    arguments = *quantize_blocks(value), weight_NK, weight_scale
    try:
        found = block_product(*arguments).float()
    except RuntimeError:
        return False
    expected = scaled_product(*arguments)
    return bool((found - expected).norm() <= 1e-2 * expected.norm())
