"""The forward pass over one token of many sequences: how it attends, and what its queries say about the cache."""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.entries import new_entries
from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.ops.decode import Distant
from corm_batch.ops.pages import NEVER
from corm_batch.policies.base import KVPolicy

_GATHERED_ENTRIES = 1 << 16
"""Padded entries one decode call may gather on a CPU, which wants them in its caches."""


class DecodeBatch:
    """The next token of up to `size` sequences, in tensors that stay where they are from step to step.

    Rows without a sequence have slot -1. Room for every new entry has been reserved.

    Args:
        size: rows.
        cache: where the entries are.
        policies: one a layer.
        full: one a layer, for sequences that keep every entry.
        at_once: rows over one reading whose queries see what they share together; 1 for none.
    """

    def __init__(
        self, size: int, cache: KVCache, policies: abc.Sequence[KVPolicy], full: abc.Sequence[KVPolicy], at_once: int
    ) -> None:
        self.cache, self.policies, self._at_once = cache, policies, at_once
        self._compresses = [policy != other for policy, other in zip(policies, full, strict=True)]
        device, self.borrowing = cache.device, cache.layers.borrowers
        self.input_ids, self.positions = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        self.slot_S = torch.full((size,), -1, device=device)
        self.least_expiry_S = torch.zeros(size, dtype=torch.int32, device=device)  # NEVER where every entry stays
        self.logit_rows, self.leader_S = (torch.arange(size, device=device) for _ in range(2))
        self._slots = np.empty(0, np.int64)

    def load(self, sequences: abc.Sequence[Sequence]) -> None:
        """Take on these sequences, one a row, each at its newest token."""
        rows = np.zeros((5, len(self.input_ids)), np.int64)
        rows[2], rows[4] = -1, np.arange(len(self.input_ids))
        rows[4, : len(sequences)] = leaders([sequence.source for sequence in sequences], self._at_once)
        for column, sequence in zip(rows.T, sequences, strict=False):
            least_expiry = NEVER if sequence.request.uncompressed else 0
            column[:4] = sequence.output[-1], sequence.num_cached, sequence.slot, least_expiry
        held_rows = self.input_ids, self.positions, self.slot_S, self.least_expiry_S, self.leader_S
        for held, row in zip(held_rows, rows, strict=True):
            held.copy_(torch.from_numpy(row))
        self._slots = rows[2, : len(sequences)]

    def advance(self, tokens_S: Tensor) -> None:
        """Go on to the next step with the tokens just chosen, one for each sequence."""
        self.input_ids[: len(tokens_S)] = tokens_S
        self.positions += 1

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Append one entry to every head, attend, vote. A packed token is a sequence here: T = S. A layer that borrows
        attends alone: what its owner has appended is there, and whatever that one's query voted for is still seen. A
        member of a group puts its value beside what its owner has appended, and sees distant entries there, too."""
        borrows, layer = layer in self.borrowing, self.cache.layers.row(layer)
        member, groups = self.cache.layers.member(layer), self.cache.layers.groups
        policy, pages, ops = self.policies[layer], self.cache.pages(layer), self.cache.ops
        step_S = (self.positions + 1).int()
        if not borrows:
            born = new_entries(self.cache, policy, layer, key_KTD, value_KTD, step_S)
            if self._compresses[layer]:
                born = born._replace(expiry=torch.maximum(born.expiry, self.least_expiry_S))
            born = born.map(lambda column: column.transpose(0, 1))
            ops.append_entries(pages, self.cache.lists(layer, self.slot_S), born)
        distant = None
        if member is not None and groups is not None:
            theirs = self.cache.pages(*member), self.cache.lists(member.owner, self.slot_S)
            ops.append_values(*theirs, value_KTD.transpose(0, 1))
            distant = Distant(*theirs, groups.first, groups.recent)
        query_SHD = query_HTD.transpose(0, 1)
        out_SHD = torch.empty_like(query_SHD)
        for rows in self._groups(layer if member is None else member.owner):
            out_SHD[rows] = ops.decode_attention(
                pages,
                self.cache.lists(layer, self.slot_S[rows]),
                query_SHD[rows],
                step_S[rows],
                None if borrows else policy.needs.reduction,
                features.scale,
                features.softcap,
                features.sink_H,
                self.leader_S if self._at_once > 1 and isinstance(rows, slice) else None,
                distant and distant._replace(lists=distant.lists._replace(slot=self.slot_S[rows])),
            )
        return out_SHD.transpose(0, 1)

    def _groups(self, layer: int) -> list[Tensor | slice]:
        """On a CPU, rows of sequences of like length: gathered lists are padded to the longest, and fit its caches."""
        if self.cache.device.type != "cpu":
            return [slice(None)]
        lengths = self.cache.table.lengths[self._slots, layer].max(axis=1)
        order = np.argsort(-lengths, kind="stable")
        groups: list[Tensor | slice] = []
        num_kv_heads = self.cache.table.lengths.shape[2]
        while len(order):
            size = max(1, _GATHERED_ENTRIES // (num_kv_heads * (int(lengths[order[0]]) + 1)))
            groups.append(torch.from_numpy(order[:size]))
            order = order[size:]
        return groups


def leaders(sources: abc.Sequence[Sequence | None], at_once: int) -> list[int]:
    """The first row of the group of each: neighbours over one reading are one, so many of them at most."""
    found: list[int] = []
    for row, source in enumerate(sources):
        joins = row > 0 and source is not None and source is sources[row - 1] and row - found[-1] < at_once
        found.append(found[-1] if joins else row)
    return found
