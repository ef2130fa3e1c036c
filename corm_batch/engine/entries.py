"""new_entries(): entries as they are born, with every column that the cache has."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.kv.cache import KVCache
from corm_batch.ops.pages import Entries
from corm_batch.policies.base import KVPolicy


def new_entries(
    cache: KVCache,
    policy: KVPolicy,
    layer: int,
    key_KND: Tensor,
    value_KND: Tensor,
    position_N: Tensor,
    expiring: KVPolicy | None = None,
    counted_N: Tensor | None = None,
) -> Entries:
    """Entries as they are born, [K, N]; columns that are another policy's are 0.

    Args:
        cache: where they may go.
        policy: whose columns they have, and whose expiries unless another one is given.
        layer, key_KND, value_KND, position_N: of the entries.
        expiring: says when they expire.
        counted_N: positions that it is asked about, where these are not the entries' own.
    """
    position = position_N.expand(key_KND.shape[0], -1)
    asked = position if counted_N is None else counted_N.expand_as(position)
    expiry = (expiring or policy).expiry(layer, asked)
    own = policy.born(layer, key_KND, value_KND, position)
    if not policy.columns:
        own = tuple(column.zeros(*position.shape, device=position.device) for column in cache.layout.own_columns)
    return Entries(key_KND, value_KND, position, expiry, torch.zeros_like(expiry, dtype=torch.float32), own)
