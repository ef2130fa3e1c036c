"""Ceilings: what a device reaches at its best, measured: bytes moved, matrices multiplied, causal attention."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict

from corm_batch.bench.workload import Workload
from corm_batch.engine.config import WeightForm
from corm_batch.ops.causal import causal_attention
from corm_batch.ops.scaled import has_scaled_products, quantize_rows, row_product, scaled_product

_MAX_ATTENTION = 1 << 16  # tokens; the rate no longer grows there
_ROW_S = 0.02  # what launches and the wait at the end cost is little beside it


class Ceilings(BaseModel):
    """Rates of one device for one workload; random data, medians.

    Attributes:
        copy_gb_per_s: bytes read plus bytes written by a copy, in 10^9 a second.
        read_gb_per_s: bytes read by a sum.
        matmul_tflop_per_s: 10^12 floating-point operations a second over the products of one layer.
        causal_tflop_per_s: the same of this package's causal attention, the upper half of the square not counted.
        sdpa_tflop_per_s: the same of torch's default attention.
        fp8_tflop_per_s: of one layer's products with 8-bit weights and inputs; None where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    copy_gb_per_s: float
    read_gb_per_s: float
    matmul_tflop_per_s: float
    causal_tflop_per_s: float
    sdpa_tflop_per_s: float
    fp8_tflop_per_s: float | None = None

    @property
    def bytes_per_s(self) -> float:
        """The faster of copying and reading."""
        return 1e9 * max(self.copy_gb_per_s, self.read_gb_per_s)

    @property
    def matmul_per_s(self) -> float:
        """Floating-point operations of matrix products."""
        return 1e12 * self.matmul_tflop_per_s

    def products_per_s(self, weights: WeightForm) -> float:
        """Floating-point operations of a layer's products with weights in this form."""
        return self.matmul_per_s if weights == "stored" else 1e12 * (self.fp8_tflop_per_s or self.matmul_tflop_per_s)

    @property
    def attention_per_s(self) -> float:
        """Floating-point operations of the faster causal attention: a slow one of ours must not lower the limit."""
        return 1e12 * max(self.causal_tflop_per_s, self.sdpa_tflop_per_s)


@torch.inference_mode()
def measure_ceilings(workload: Workload, device: torch.device) -> Ceilings:
    """Measure this device at the workload's shapes: seconds on a GPU, tenths of a second on a CPU."""
    copy, read = _bandwidth(device)
    causal, sdpa = _attention(workload, device)
    rows = 16384 if device.type == "cuda" else 256
    matmul = products_per_s(workload, device, "stored", rows)
    fast = device.type == "cuda" and has_scaled_products(device)
    fp8 = products_per_s(workload, device, "fp8", rows) if fast else None
    return Ceilings(
        copy_gb_per_s=copy / 1e9,
        read_gb_per_s=read / 1e9,
        matmul_tflop_per_s=matmul / 1e12,
        causal_tflop_per_s=causal / 1e12,
        sdpa_tflop_per_s=sdpa / 1e12,
        fp8_tflop_per_s=None if fp8 is None else fp8 / 1e12,
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median time of one call in rows of calls without a wait; long enough for a GPU to settle at its steady clock."""
    least, budget = (5, 1.0) if device.type == "cuda" else (3, 0.05)
    call()
    calls = max(1, round(_ROW_S / _row_seconds(call, 1, device)))
    times: list[float] = []
    while len(times) < least or sum(times) < budget:
        times.append(_row_seconds(call, calls, device))
    return statistics.median(times) / calls


def _row_seconds(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds of so many calls, one right behind the other."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for what the device was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bandwidth(device: torch.device) -> tuple[float, float]:
    """Bytes a second of a copy (read and written) and of a sum, over 4 GiB on a GPU and 64 MiB on a CPU."""
    size = 1 << (32 if device.type == "cuda" else 26)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device), size / _seconds(source.sum, device)


def products_per_s(workload: Workload, device: torch.device, weights: WeightForm, rows: int) -> float:
    """Operations a second over one layer's products with so many tokens packed; quantising inputs is not counted."""
    shape, calls = workload.model, []
    for width, to in shape.layer_matrices:
        tokens, weight = (torch.randn(count, width, device=device, dtype=workload.torch_dtype) for count in (rows, to))
        if weights == "fp8":
            multiply = row_product if device.type == "cuda" else scaled_product
            calls.append(partial(multiply, *quantize_rows(tokens), *quantize_rows(weight)))
        else:
            calls.append(partial(F.linear, tokens, weight))

    def layer() -> None:
        for call in calls:
            call()

    return 2 * rows * sum(width * to for width, to in shape.layer_matrices) / _seconds(layer, device)


def _attention(workload: Workload, device: torch.device) -> tuple[float, float]:
    """Operations a second of this package's causal attention and of torch's, over one document of the prompt's length.

    A query and a key meet in 4 * head_dim operations (score and weighted value), and half of the pairs meet.
    """
    shape, tokens = workload.model, min(workload.prompt_tokens, _MAX_ATTENTION)
    heads = shape.num_heads, shape.num_kv_heads, shape.num_kv_heads
    query_HTD, key_KTD, value_KTD = (
        torch.randn(count, tokens, shape.head_dim, device=device, dtype=workload.torch_dtype) for count in heads
    )
    scale = shape.head_dim**-0.5

    def ours() -> object:
        return causal_attention(query_HTD, key_KTD, value_KTD, scale)

    def theirs() -> object:
        return F.scaled_dot_product_attention(
            query_HTD[None], key_KTD[None], value_KTD[None], is_causal=True, enable_gqa=True
        )

    operations = 2 * shape.num_heads * shape.head_dim * tokens**2
    return operations / _seconds(ours, device), operations / _seconds(theirs, device)
