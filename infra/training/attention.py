"""Attention over packed sequences, as transformers' models call it, and what is measured of it.

Registered with transformers under `PACKED`. Training passes `cu_seqlens` and `max_seqlen` to the model; measuring
passes a `meter` beside them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

PACKED = "packed"
WINDOW = RECENT = 256


class Meter:
    """What the last `WINDOW` queries of one sequence find important, layer by layer.

    Attributes:
        layers: one dict of shares (0..1) a layer: `important`, of the keys a query sees with a >= 1/t; `first`, of the
            attention on the first token; `kept`, of all keys under CORM with w = r = 256 and tau 1.
    """

    def __init__(self) -> None:
        self.layers: list[dict[str, float]] = []

    def measure(self, query_THD: Tensor, key_TKD: Tensor, scale: float) -> None:
        """Look at the newest queries of a layer; T tokens, H query heads, K key-value heads, D wide."""
        num_tokens, num_kv_heads = key_TKD.shape[:2]
        query = query_THD[-WINDOW:].float().unflatten(1, (num_kv_heads, -1))
        step = torch.arange(1, num_tokens + 1, device=query.device)
        visible = step <= step[-WINDOW:, None]
        logits = torch.einsum("wkgd,tkd->kgwt", query, key_TKD.float()) * scale
        attention = logits.masked_fill(~visible, -torch.inf).softmax(-1)
        important = attention >= 1 / step[-WINDOW:, None]
        kept = important.flatten(1, 2).any(1)
        kept[:, -RECENT:] = True
        self.layers.append(
            {
                "important": (important.sum() / (visible.sum() * logits.shape[0] * logits.shape[1])).item(),
                "first": attention[..., 0].mean().item(),
                "kept": kept.float().mean().item(),
            }
        )


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    *,
    cu_seqlens: Tensor,
    max_seqlen: int,
    meter: Meter | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of the packed sequences; query, key and value are [1, heads, T, D]."""
    query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    if meter is not None:
        meter.measure(query_THD, key_TKD, scaling)
    if query.is_cuda:
        out = varlen_attn(
            query_THD.contiguous(),
            key_TKD.contiguous(),
            value_TKD.contiguous(),
            cu_seqlens,
            cu_seqlens,
            max_seqlen,
            max_seqlen,
            scale=scaling,
            window_size=(-1, 0),
        )
        assert isinstance(out, Tensor)
        return out[None], None
    bounds = cu_seqlens.unique().tolist()
    parts = [
        F.scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, scale=scaling, enable_gqa=True
        )
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def hidden_states(
    model: PreTrainedModel, ids: Tensor, cu_seqlens: Tensor, max_seqlen: int, meter: Meter | None = None
) -> Tensor:
    """[T, hidden] of packed token ids [T]; the residual stream runs in bfloat16."""
    step = torch.arange(len(ids), device=ids.device)
    start = cu_seqlens[torch.searchsorted(cu_seqlens, step, right=True, out_int32=True) - 1]
    hidden: Tensor = model.model(
        inputs_embeds=model.model.embed_tokens(ids).bfloat16()[None],
        position_ids=(step - start)[None],
        use_cache=False,
        cu_seqlens=cu_seqlens,
        max_seqlen=max_seqlen,
        meter=meter,
    ).last_hidden_state[0]
    return hidden


AttentionInterface.register(PACKED, packed_attention)
