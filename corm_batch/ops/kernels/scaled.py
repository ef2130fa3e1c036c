"""Numbers of 8 bits in Triton: a program holds a whole row, so memory is read once for its scale and its numbers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_FP8 = torch.float8_e4m3fn


def measured_rows(value: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.scaled.measured_rows`."""
    return _quantize(value, None)


def gated_rows(gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """`ops.scaled.gated_rows`."""
    return _quantize(up, gate)


def _quantize(value: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """Numbers and scales of [..., K] by rows, times silu of a gate where there is one."""
    width = value.shape[-1]
    rows, gates = _rows(value), None if gate is None else _rows(gate)
    number = torch.empty(value.shape, dtype=_FP8, device=value.device)
    scale = torch.empty((*value.shape[:-1], 1), dtype=torch.float32, device=value.device)
    if number.numel():
        block = triton.next_power_of_2(width)
        _quantize_row[(len(rows),)](
            rows, rows.stride(0), gates, 0 if gates is None else gates.stride(0), number, scale, width,
            torch.finfo(_FP8).max, torch.finfo(torch.float32).tiny, BLOCK=block,
            num_warps=min(16, max(1, block // 1024)),
        )  # fmt: skip
    return number, scale


def _rows(value: Tensor) -> Tensor:
    """[..., K] as [rows, K]: columns lie side by side, rows may lie apart, as those of a part of a product do."""
    rows = value.reshape(-1, value.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


@triton.jit
def _quantize_row(
    values: tl.tensor, value_stride: int, gates: tl.tensor | None, gate_stride: int, numbers: tl.tensor,
    scales: tl.tensor, width: int, most: float, least_scale: float, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One row; BLOCK is its width, padded."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(values + row * value_stride + column, mask=inside, other=0.0).to(tl.float32)  # [BLOCK]
    if gates is not None:
        gate = tl.load(gates + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)  # [BLOCK]
        value *= gate / (1.0 + tl.exp(-gate))
    scale = tl.maximum(tl.max(tl.abs(value)) / most, least_scale)
    number = tl.minimum(tl.maximum(value / scale, -most), most)
    tl.store(numbers + row * width + column, number.to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)
