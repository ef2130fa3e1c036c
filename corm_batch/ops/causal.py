"""Causal attention over one whole prompt, with the log-sum-exp the column reduction needs.

The fastest kernel torch offers on the device is used where it computes exactly what the model asks for; soft-capping,
sliding windows and unusual dtypes take the dense definition. The `aten` names live in this file alone: they may move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.ops.dense import dense_attention

_aten = torch.ops.aten


def causal_attention(
    query_HTD: Tensor,
    key_KTD: Tensor,
    value_KTD: Tensor,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    sink_H: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each token attends to itself and the tokens before it, at most `window` of them.

    Returns:
        out [H, T, D] in the query's dtype, lse [H, T] float32 (natural log, sink included).
    """
    num_tokens = query_HTD.shape[1]
    if softcap is None and (window is None or window >= num_tokens) and _fused_exists(query_HTD):
        out, lse = _fused(query_HTD, key_KTD, value_KTD, scale)
        return (out, lse) if sink_H is None else _add_sink(out, lse, sink_H)
    step = torch.arange(1, num_tokens + 1, dtype=torch.int32, device=query_HTD.device)
    first = step.expand(key_KTD.shape[0], -1)
    last = first + (num_tokens if window is None else window - 1)
    return dense_attention(query_HTD, key_KTD, value_KTD, step, first, last, scale, softcap, sink_H)


def _fused_exists(query_HTD: Tensor) -> bool:
    """Whether torch has a kernel with a log-sum-exp for this device, dtype and width."""
    if query_HTD.device.type == "cpu":
        return query_HTD.dtype in (torch.float32, torch.bfloat16)
    return query_HTD.device.type == "cuda" and query_HTD.shape[-1] <= 256


def _fused(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Dispatch to the device's kernel; kv heads are repeated because the low-level entries know no groups."""
    group = query_HTD.shape[0] // key_KTD.shape[0]
    query = query_HTD[None]
    key, value = (x.repeat_interleave(group, dim=0)[None] for x in (key_KTD, value_KTD))
    if query.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)
    elif query.dtype == torch.float32:
        out, lse, *_ = _aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, True, scale=scale
        )
    else:
        out, lse, *_ = _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)
    return out[0], lse[0, :, : query_HTD.shape[1]].float()


def _add_sink(out_HTD: Tensor, lse_HT: Tensor, sink_H: Tensor) -> tuple[Tensor, Tensor]:
    """Let a value-less logit per head join a softmax that was computed without it."""
    lse = torch.logaddexp(lse_HT, sink_H.float()[:, None])
    return out_HTD * torch.exp(lse_HT - lse)[..., None].to(out_HTD.dtype), lse
