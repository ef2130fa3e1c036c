"""evict(): the policy says which entries expired, the cache keeps the rest, the sequence books what it lost."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.ops.pages import Entries
from corm_batch.policies.base import KVPolicy


def survivors(policy: KVPolicy, entries: Entries, step: int) -> Tensor:
    """Which entries a query after `step` may see, the policy's bound applied.

    Args:
        entries: [K, N], padding at position NEVER.
        step: the last step taken.

    Returns:
        [K, N] bool.
    """
    keep = (entries.position <= step) & (entries.expiry > step)
    bound = policy.entries_bound
    if bound is not None and keep.shape[-1] > bound:
        rank = policy.rank(entries, step).masked_fill(~keep, torch.iinfo(torch.int64).min)
        keep &= rank >= rank.topk(bound, dim=-1).values[:, -1:]
    return keep


def evict(cache: KVCache, policy: KVPolicy, sequence: Sequence, layer: int, entries: Entries, step: int) -> None:
    """Store what survives of one layer's entries and free the pages of the rest.

    Raises:
        OutOfPages: the pool is dry; nothing has changed.
    """
    keep = survivors(policy, entries, step)
    cache.store(sequence.slot, layer, entries, keep)
    if policy.reduction is not None:
        sequence.evicted_mass[layer] += torch.where(keep, 0.0, entries.mass).sum(dim=-1).mean()


def compact(cache: KVCache, policies: list[KVPolicy], sequence: Sequence) -> None:
    """Free every page of a running sequence that only expired entries need."""
    for layer, policy in enumerate(policies):
        evict(cache, policy, sequence, layer, cache.read(sequence.slot, layer), sequence.num_cached)
