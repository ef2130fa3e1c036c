"""Attention of a plain model of transformers whose layers share keys of distant tokens: what it is trained with, and
what the engine's answers are held against. Registered with transformers under `GROUPED`; it has gradients and no cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from corm_batch.engine.attention import refuse_mask
from corm_batch.kv.groups import Groups

GROUPED = "corm_batch_groups"


@dataclass
class SharedKeys:
    """What the attention modules of one model know of each other.

    Attributes:
        groups: of its layers.
        keys: by owner, [B, K, T, D] of the pass that runs.
    """

    groups: Groups
    keys: dict[int, Tensor] = field(default_factory=dict)


def share_keys(module: Any, groups: Groups) -> None:
    """Have a model of transformers attend like this, in place."""
    shared = SharedKeys(groups)
    for part in module.modules():
        if hasattr(part, "layer_idx") and hasattr(part, "k_proj"):
            part.shared_keys = shared
    module.set_attn_implementation(GROUPED)


def grouped_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention signature, of whole texts: query [B, H, T, D], key, value [B, K, T, D] -> [B, T, H, D].

    A member's query sees proximal tokens by its layer's own keys and distant ones by its owner's, in one softmax.

    Raises:
        UnsupportedModelError: the model wants to have a mask of its own.
    """
    refuse_mask(module, attention_mask)
    shared: SharedKeys = module.shared_keys  # type: ignore[assignment]
    layer: int = module.layer_idx  # type: ignore[assignment]
    groups, member = shared.groups, shared.groups.members.get(layer)
    if member is None:
        shared.keys = {layer: key}
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    step = torch.arange(1, query.shape[2] + 1, device=query.device)
    seen = step <= step[:, None]
    near = seen & ((step > step[:, None] - groups.recent) | (step <= groups.first))
    group = query.shape[1] // key.shape[1]  # no kernel that is sparing with memory knows masks and groups
    both = torch.cat((key, shared.keys[member.owner]), dim=2), torch.cat((value, value), dim=2)
    keys, values = (one.repeat_interleave(group, dim=1) for one in both)
    mask = torch.cat((near, seen & ~near), dim=1)
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2), None


AttentionInterface.register(GROUPED, grouped_attention)
