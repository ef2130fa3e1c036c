"""Causal attention over one whole prompt, with the log-sum-exp the column reduction needs.

The fastest kernel on the device is used where it computes exactly what the model asks for; soft-capping, sliding
windows and unusual dtypes take the dense definition. The `aten` names live in this file alone: they may move.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from corm_batch.ops.dense import dense_attention
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER

_aten = torch.ops.aten

Kernel = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(query_HTD, key_KTD, value_KTD, scale) -> out [H, T, D], lse [H, T] float32."""

PackedKernel = Callable[[Tensor, Tensor, Tensor, Packing, float], tuple[Tensor, Tensor]]
"""The same of several sequences."""

CUDNN_TOKENS = 512
"""Prompts this short stay with flash attention: they cost little, and cuDNN would build a plan for each length."""

_SHORT = 1024
"""The same where several stand side by side: flash attention takes them in one launch, cuDNN in one each."""


def causal_attention(
    query_HTD: Tensor,
    key_KTD: Tensor,
    value_KTD: Tensor,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    sink_H: Tensor | None = None,
    dense: Callable[..., tuple[Tensor, Tensor]] = dense_attention,
    step_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Each token attends to itself and the tokens before it, those less than `window` steps away.

    Args:
        query_HTD, key_KTD, value_KTD: one dtype and device; strided views are taken as they are.
        scale, softcap, sink_H: as in `dense_attention`.
        window: newest tokens a query may see, itself included; None for all.
        dense: computes what no fused kernel does, with the signature of `dense_attention`.
        step_T: int32, ascending, the tokens' steps where some are missing in between; None where none is.

    Returns:
        out [H, T, D] in the query's dtype, lse [H, T] float32 (natural log, sink included).
    """
    num_tokens = query_HTD.shape[1]
    if softcap is None and (window is None or (step_T is None and window >= num_tokens)):
        kernel = _kernel(query_HTD, key_KTD, value_KTD)
        if kernel is not None:
            out, lse = kernel(query_HTD, key_KTD, value_KTD, scale)
            return (out, lse) if sink_H is None else _add_sink(out, lse, sink_H)
    if step_T is None:
        step_T = torch.arange(1, num_tokens + 1, dtype=torch.int32, device=query_HTD.device)
    return dense(query_HTD, key_KTD, value_KTD, *_causal_steps(step_T, key_KTD, window), scale, softcap, sink_H)


def packed_causal_attention(
    query_HTD: Tensor,
    key_KTD: Tensor,
    value_KTD: Tensor,
    packing: Packing,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    sink_H: Tensor | None = None,
    dense: Callable[..., tuple[Tensor, Tensor]] = dense_attention,
    step_T: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`causal_attention` of several sequences, each of which sees itself alone, in as few launches as they allow.

    Args:
        query_HTD, key_KTD, value_KTD, scale, softcap, window, sink_H, dense, step_T: as there.
        packing: the sequences, as `Packing.of` puts them.

    Returns:
        out [H, T, D] in the query's dtype, token by token in memory where there are several; lse [H, T] float32.
    """
    if softcap is not None or (window is not None and (step_T is not None or window < packing.longest)):
        if step_T is None:
            step_T = torch.arange(1, query_HTD.shape[1] + 1, dtype=torch.int32, device=query_HTD.device)
            step_T = step_T - packing.per_token(packing.bounds[0])
        steps, both = _causal_steps(step_T, key_KTD, window), (packing, packing)
        return dense(query_HTD, key_KTD, value_KTD, *steps, scale, softcap, sink_H, both)
    outs, lses = [], []
    for tokens, run, kernel in _runs(packing, _kernel(query_HTD, key_KTD, value_KTD)):
        query, key, value = query_HTD[:, tokens], key_KTD[:, tokens], value_KTD[:, tokens]
        if kernel is None:
            out, lse = causal_attention(query, key, value, scale, sink_H=sink_H, dense=dense)
        else:
            out, lse = kernel(query, key, value, run, scale)
            out, lse = (out, lse) if sink_H is None else _add_sink(out, lse, sink_H)
        outs.append(out)
        lses.append(lse)
    if len(outs) == 1:
        return outs[0], lses[0]
    return torch.cat([out.transpose(0, 1) for out in outs]).transpose(0, 1), torch.cat(lses, dim=1)


def _causal_steps(step_T: Tensor, key_KTD: Tensor, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """What `dense_attention` wants of tokens at these steps: queries' steps, keys' first and last ones."""
    first = step_T.expand(key_KTD.shape[0], -1)
    return step_T, first, torch.full_like(first, NEVER) if window is None else first + (window - 1)


@functools.lru_cache(4)
def _runs(packing: Packing, kernel: Kernel | None) -> list[tuple[slice, Packing, PackedKernel | None]]:
    """Neighbours that one launch takes, their tokens, and what takes them; None for the kernel of one alone.

    cuDNN takes sequences of one length that need no padding: it would build a plan for every other set of lengths.
    """

    def taken(number: int) -> tuple[object, PackedKernel | None]:
        size = int(packing.sizes[number])
        if kernel is _flash or (kernel is _cudnn and size <= _SHORT):
            return None, _flash_packed
        if kernel is _cudnn and size == padded_length(size):
            return size, _cudnn_packed
        return (number,), None

    runs, first = [], 0
    for (_, packed_kernel), group in itertools.groupby(range(len(packing.sizes)), taken):
        run = packing.part(slice(first, first + len(list(group))))
        start, first = int(packing.starts[first]), first + len(run.sizes)
        runs.append((slice(start, start + int(run.sizes.sum())), run, packed_kernel if len(run.sizes) > 1 else None))
    return [run for run in runs if run[1].longest] or runs[:1]


def padded_length(num_tokens: int) -> int:
    """The length cuDNN is asked for: a sixteenth of an octave apart, in whole tiles of 128 tokens.

    cuDNN builds a plan for every new length, which takes tenths of a second; so lengths are rounded up to some 16 per
    doubling. What follows a causal prompt changes nothing in it and costs at most a sixteenth more rows.
    """
    step = max(128, 1 << max(0, (num_tokens - 1).bit_length() - 5))
    return -(-num_tokens // step) * step


def _kernel(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor) -> Kernel | None:
    """The fastest kernel with a log-sum-exp for this device, dtype, width and length; None when there is none."""
    device, dtype, width = query_HTD.device, query_HTD.dtype, query_HTD.shape[-1]
    if device.type == "cpu":
        return _flash_on_cpu if dtype in (torch.float32, torch.bfloat16) else None
    if device.type != "cuda" or width > 256:
        return None
    if dtype == torch.float32:
        return _efficient
    grouped = query_HTD.shape[0] != key_KTD.shape[0]
    query, key, value = (_batched(x) for x in (query_HTD, key_KTD, value_KTD))
    params = torch.backends.cuda.SDPAParams(query, key, value, None, 0.0, True, grouped)
    if width % 8 or not torch.backends.cuda.can_use_flash_attention(params):
        return None
    if _flash_attention_3() is not None and torch.cuda.get_device_capability(device)[0] == 9:
        return _flash_3
    # Wider heads: torch and cuDNN have disagreed more than once on which of them work.
    if width <= 128 and query_HTD.shape[1] > CUDNN_TOKENS and torch.backends.cuda.can_use_cudnn_attention(params):
        return _cudnn
    return _flash


def _batched(x_HTD: Tensor) -> Tensor:
    """[1, H, T, D] whose strides are those of a dense [1, T, H, D], however long the tensor is that x is a part of."""
    return x_HTD.transpose(0, 1)[None].transpose(1, 2)


@functools.cache
def _flash_attention_3() -> Callable[..., Any] | None:
    """FlashAttention 3, where somebody built it; None without it, or from before it gave out its log-sum-exp."""
    if importlib.util.find_spec("flash_attn_interface") is None:
        return None
    function: Callable[..., Any] = importlib.import_module("flash_attn_interface").flash_attn_func
    return function if "return_attn_probs" in inspect.signature(function).parameters else None


def _flash_3(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """FlashAttention 3 knows groups and takes [1, T, H, D]."""
    function = _flash_attention_3()
    assert function is not None
    query, key, value = (x.transpose(0, 1)[None] for x in (query_HTD, key_KTD, value_KTD))
    out, lse, *_ = function(query, key, value, softmax_scale=scale, causal=True, return_attn_probs=True)
    return out[0].transpose(0, 1), lse[0]


def _cudnn(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """cuDNN knows groups; its log-sum-exp is [1, H, T, 1]."""
    num_heads, num_tokens, _ = query_HTD.shape
    length = padded_length(num_tokens)
    query, key, value = (_batched(_padded(x, length)) for x in (query_HTD, key_KTD, value_KTD))
    out, lse, *_ = _aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, True, False, scale=scale
    )
    return out[0, :, :num_tokens], lse.reshape(num_heads, length)[:, :num_tokens]


def _padded(x_HTD: Tensor, length: int) -> Tensor:
    """Zeros behind the last token up to `length`; laid out token by token, as projections leave it."""
    num_heads, num_tokens, width = x_HTD.shape
    if num_tokens == length:
        return x_HTD
    padded_THD = x_HTD.new_empty(length, num_heads, width)
    padded_THD[:num_tokens] = x_HTD.transpose(0, 1)
    padded_THD[num_tokens:] = 0
    return padded_THD.transpose(0, 1)


def _flash(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """torch's own FlashAttention 2, which knows groups."""
    query, key, value = (_batched(x) for x in (query_HTD, key_KTD, value_KTD))
    out, lse, *_ = _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)
    return out[0], lse[0, :, : query_HTD.shape[1]]


def _flash_packed(
    query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, packing: Packing, scale: float
) -> tuple[Tensor, Tensor]:
    """torch's own FlashAttention 2 of several sequences."""
    query, key, value = (x.transpose(0, 1) for x in (query_HTD, key_KTD, value_KTD))
    stops, longest = packing.stops, packing.longest
    out, lse, *_ = _aten._flash_attention_forward(
        query, key, value, stops, stops, longest, longest, 0.0, True, False, scale=scale
    )
    return out.transpose(0, 1), lse


def _cudnn_packed(
    query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, packing: Packing, scale: float
) -> tuple[Tensor, Tensor]:
    """cuDNN of several sequences of one length."""
    count, length = len(packing.sizes), packing.longest
    query, key, value = (
        x.transpose(0, 1).unflatten(0, (count, length)).transpose(1, 2) for x in (query_HTD, key_KTD, value_KTD)
    )
    out, lse, *_ = _aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, True, False, scale=scale
    )
    lse_HT = lse.reshape(count, -1, length).transpose(0, 1).flatten(1, 2)
    return out.transpose(1, 2).flatten(0, 1).transpose(0, 1), lse_HT


def _efficient(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The one kernel for float32 on a GPU; it knows no groups and rounds the rows of its log-sum-exp up."""
    query, key, value = (_batched(x) for x in _ungrouped(query_HTD, key_KTD, value_KTD))
    out, lse, *_ = _aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, True, scale=scale)
    return out[0], lse[0, :, : query_HTD.shape[1]]


def _flash_on_cpu(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The CPU's kernel knows no groups."""
    query, key, value = (x[None] for x in _ungrouped(query_HTD, key_KTD, value_KTD))
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)
    return out[0], lse[0].float()


def _ungrouped(query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values repeated, one for every query head."""
    group = query_HTD.shape[0] // key_KTD.shape[0]
    if group == 1:
        return query_HTD, key_KTD, value_KTD
    return query_HTD, key_KTD.repeat_interleave(group, dim=0), value_KTD.repeat_interleave(group, dim=0)


def _add_sink(out_HTD: Tensor, lse_HT: Tensor, sink_H: Tensor) -> tuple[Tensor, Tensor]:
    """Let a value-less logit per head join a softmax that was computed without it."""
    lse = torch.logaddexp(lse_HT, sink_H.float()[:, None])
    return out_HTD * torch.exp(lse_HT - lse)[..., None].to(out_HTD.dtype), lse
