"""The policy says which entries expired, the cache keeps the rest, and what was lost is counted."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache, Stage
from corm_batch.ops.pages import Entries, read_pages, update_pages
from corm_batch.ops.select import Ops
from corm_batch.policies.base import KVPolicy


def survivors(ops: Ops, policy: KVPolicy, entries: Entries, step: int | Tensor) -> Tensor:
    """Which entries a query after `step` may see, the policy's bound applied.

    Args:
        ops: of the entries' device.
        entries: [..., K, N], padding at position NEVER.
        step: the last step taken; a tensor must be broadcastable to [..., K, N].

    Returns:
        [..., K, N] bool.
    """
    keep = (entries.position <= step) & (entries.expiry > step)
    bound = policy.entries_bound
    if bound is not None and keep.shape[-1] > bound:
        rank = policy.rank(entries, step)
        keep = ops.top_entries(rank.flatten(0, -2), keep.flatten(0, -2), bound).view(keep.shape)
    return keep


def evict(cache: KVCache, stage: Stage, policy: KVPolicy, slot: int, layer: int, entries: Entries, step: int) -> Tensor:
    """Store what survives of one layer's entries, [K, N], after a step.

    Returns:
        The attention mass of those that did not, [K].
    """
    return cache.store(stage, slot, layer, entries, survivors(cache.ops, policy, entries, step))


def compact(cache: KVCache, policies: Seq[KVPolicy], sequences: Seq[Sequence]) -> None:
    """Free every page of running sequences that only expired entries need. Waits for the device."""
    slots = np.array([sequence.slot for sequence in sequences])
    steps = torch.tensor([sequence.num_cached for sequence in sequences], dtype=torch.int32)
    slot_S, step_S = torch.from_numpy(slots).to(cache.device), steps.to(cache.device)
    masses = []
    for layer, policy in enumerate(policies):
        if policy.entries_bound is not None:
            _expire_surplus(cache, policy, slots, slot_S, layer, step_S)
        mass_SK = cache.ops.compact_lists(cache.pool.pages, cache.lists(layer, slot_S), step_S)
        masses.append(mass_SK.mean(dim=1))
    for sequence, mass_L in zip(sequences, torch.stack(masses, dim=1), strict=True):
        sequence.evicted_mass += mass_L
        sequence.num_compacted = len(sequence.output)
    cache.settle(slots)


def _expire_surplus(
    cache: KVCache, policy: KVPolicy, slots: np.ndarray, slot_S: Tensor, layer: int, step_S: Tensor
) -> None:
    """Let what the policy's bound leaves no room for expire with the last step."""
    pages, lists = cache.pool.pages, cache.lists(layer, slot_S)
    width = -(-int(cache.table.lengths[slots, layer].max()) // cache.pool.page_size)
    length = lists.length[slot_S]
    first_entry = torch.arange(width, device=cache.device) * cache.pool.page_size
    # Behind a list's last page the table may name pages that are others' by now.
    table = lists.table[slot_S, :, :width].masked_fill(first_entry >= length[..., None], 0)
    bare = pages._replace(key=pages.key[..., :0], value=pages.value[..., :0])
    entries, step = read_pages(bare, table, length), step_S[:, None, None]
    lost = (entries.position <= step) & ~survivors(cache.ops, policy, entries, step)
    expiry = torch.where(lost, torch.minimum(entries.expiry, step), entries.expiry)
    update_pages(pages, table.long(), expiry, entries.mass)
