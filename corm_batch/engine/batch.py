"""The three kinds of forward pass: a whole prompt, a chunk of one, one token of many.

Each knows how its tokens attend and what its queries say about the cache; none knows who chose its sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.eviction import evict
from corm_batch.engine.sequence import Sequence
from corm_batch.kv.cache import KVCache
from corm_batch.kv.pool import OutOfPages
from corm_batch.ops.causal import causal_attention
from corm_batch.ops.decode import decode_attention
from corm_batch.ops.dense import dense_attention
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import reduce_columns
from corm_batch.policies.base import KVPolicy

_DECODE_ENTRIES = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Padded entries one decode call may gather per device: a CPU wants them in its cache, a GPU wants few launches."""


@dataclass(frozen=True)
class Span:
    """Prompt tokens [start, stop) of one sequence."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def ends_prompt(self) -> bool:
        """Whether the sequence's first output token follows."""
        return self.stop == self.sequence.num_prompt_tokens


def new_entries(policy: KVPolicy, layer: int, key_KND: Tensor, value_KND: Tensor, position_N: Tensor) -> Entries:
    """Entries as they are born."""
    position = position_N.expand(key_KND.shape[0], -1)
    expiry = policy.expiry(layer, position)
    return Entries(key_KND, value_KND, position, expiry, torch.zeros_like(expiry, dtype=torch.float32))


class PrefillBatch:
    """Prompt tokens of several sequences, packed.

    Args:
        spans: what to run.
        cache: where survivors go.
        policies: one a layer.
        make_room: frees pages of sequences outside this batch; False when there are none left to free.
    """

    def __init__(
        self, spans: Seq[Span], cache: KVCache, policies: Seq[KVPolicy], make_room: Callable[[], bool]
    ) -> None:
        self.spans, self.cache, self.policies, self.make_room = spans, cache, policies, make_room
        self.stops = np.cumsum([span.stop - span.start for span in spans])
        device = cache.device
        tokens = [token for span in spans for token in span.sequence.request.token_ids[span.start : span.stop]]
        self.input_ids = torch.tensor(tokens, device=device)
        self.positions = torch.cat([torch.arange(span.start, span.stop, device=device) for span in spans])
        ends = [int(stop) - 1 for span, stop in zip(spans, self.stops, strict=True) if span.ends_prompt]
        self.logit_rows = torch.tensor(ends, dtype=torch.int64, device=device)

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Attention span by span; each span's survivors are committed before the next layer runs."""
        out_HTD = torch.empty_like(query_HTD)
        for span, stop in zip(self.spans, self.stops, strict=True):
            rows = slice(int(stop) - (span.stop - span.start), int(stop))
            out_HTD[:, rows], entries = self.attend_span(
                span, layer, query_HTD[:, rows], key_KTD[:, rows], value_KTD[:, rows], features
            )
            while True:
                try:
                    evict(self.cache, self.policies[layer], span.sequence, layer, entries, span.stop)
                    break
                except OutOfPages:
                    if not self.make_room():
                        raise
        return out_HTD

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Entries]:
        """Exact prefill of one whole prompt: full causal attention, then the last rows vote on every key."""
        policy, num_tokens = self.policies[layer], span.stop
        out, lse = causal_attention(
            query_HTD, key_KTD, value_KTD, features.scale, features.softcap, features.window, features.sink_H
        )
        step = torch.arange(1, num_tokens + 1, dtype=torch.int32, device=query_HTD.device)
        entries = new_entries(policy, layer, key_KTD, value_KTD, step)
        if policy.reduction is not None:
            votes = slice(-min(policy.reduction.window, num_tokens), None)
            entries = reduce_columns(
                policy.reduction, query_HTD[:, votes], lse[:, votes], step[votes], entries,
                torch.full_like(entries.expiry, NEVER), features.scale, features.softcap, gap_rule=False,
            )  # fmt: skip
        return out, entries


class ChunkBatch(PrefillBatch):
    """Chunks of prompts: a chunk's queries see what was kept so far and the chunk itself."""

    def attend_span(
        self,
        span: Span,
        layer: int,
        query_HTD: Tensor,
        key_KTD: Tensor,
        value_KTD: Tensor,
        features: AttentionFeatures,
    ) -> tuple[Tensor, Entries]:
        """Streaming prefill of one chunk; all of its rows vote, under the gap rule.

        Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
        attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.
        """
        policy = self.policies[layer]
        step = torch.arange(span.start + 1, span.stop + 1, dtype=torch.int32, device=query_HTD.device)
        entries = new_entries(policy, layer, key_KTD, value_KTD, step)
        if span.start:
            entries = Entries.join(self.cache.read(span.sequence.slot, layer), entries)
        votes = policy.reduction is not None and policy.reduction.threshold is not None
        last = torch.full_like(entries.expiry, NEVER) if votes else entries.expiry
        out, lse = dense_attention(
            query_HTD, entries.key, entries.value, step, entries.position, last, features.scale, features.softcap,
            features.sink_H,
        )  # fmt: skip
        if policy.reduction is not None:
            entries = reduce_columns(
                policy.reduction, query_HTD, lse, step, entries, last, features.scale, features.softcap, gap_rule=True
            )
        return out, entries


class DecodeBatch:
    """The next token of every running sequence; room for it has been reserved."""

    def __init__(self, sequences: Seq[Sequence], cache: KVCache, policies: Seq[KVPolicy]) -> None:
        self.cache, self.policies = cache, policies
        self.slots = np.array([sequence.slot for sequence in sequences])
        device = cache.device
        self.input_ids = torch.tensor([sequence.output[-1] for sequence in sequences], device=device)
        self.positions = torch.tensor([sequence.num_cached for sequence in sequences], device=device)
        self.logit_rows = torch.arange(len(sequences), device=device)

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Append one entry to every head, attend, vote. A packed token is a sequence here: T = S."""
        policy = self.policies[layer]
        step_S = (self.positions + 1).int()
        position_SK1 = step_S[:, None, None].expand(-1, key_KTD.shape[0], 1)
        expiry = policy.expiry(layer, position_SK1)[..., 0]
        born = Entries(
            key_KTD.transpose(0, 1), value_KTD.transpose(0, 1), position_SK1[..., 0], expiry, torch.zeros_like(expiry)
        )
        self.cache.append(self.slots, layer, born)
        out_SHD = torch.empty_like(query_HTD.transpose(0, 1))
        for group in self._groups(layer):
            rows, slots = torch.from_numpy(group).to(query_HTD.device), self.slots[group]
            lengths = self.cache.table.lengths[slots, layer]
            width = int(-(-lengths.max() // self.cache.pool.page_size))
            out_SHD[rows] = decode_attention(
                self.cache.pool.pages,
                self.cache.table.lists(torch.from_numpy(slots).to(rows.device), layer, width),
                torch.from_numpy(lengths).to(rows.device),
                query_HTD[:, rows].transpose(0, 1),
                step_S[rows],
                policy.reduction,
                features.scale,
                features.softcap,
                features.sink_H,
            )
        return out_SHD.transpose(0, 1)

    def _groups(self, layer: int) -> list[np.ndarray]:
        """Rows of sequences of like length, so that padding them to the longest wastes little."""
        lengths = self.cache.table.lengths[self.slots, layer].max(axis=1)
        order = np.argsort(-lengths, kind="stable")
        groups, num_kv_heads = [], self.cache.table.lengths.shape[2]
        budget = _DECODE_ENTRIES.get(self.cache.device.type, 1 << 22)
        while len(order):
            size = max(1, budget // (num_kv_heads * int(lengths[order[0]])))
            groups.append(order[:size])
            order = order[size:]
        return groups
