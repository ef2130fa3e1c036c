"""Chunks: tokens of several sequences that each see what their own has stored, and each other.

    entries of one launch    [ held by 1 | padding | chunk of 1 ] [ held by 2 | padding | chunk of 2 ] ...
    rows                                   [ 1 ]                                   [ 2 ]

All rows of a chunk vote, under the gap rule, or the newest of those that score.
"""

from __future__ import annotations

from collections import abc
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.looks import Behind, DenseLook, LayerLooks
from corm_batch.engine.rows import Part
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import GATHERED_ENTRIES
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import KVPolicy

_PADDING = 1.25
"""Lists of sequences that go together are copied into equal room where that is at most so many times what they take:
then what is done to each of them apart needs no copy more."""


class ChunkPass:
    """The chunks of one pass over prompts: which of them go together, and how they are run.

    Args:
        spans: of the pass.
        cache: where the entries are.
    """

    def __init__(self, spans: abc.Sequence[Span], cache: KVCache) -> None:
        self._cache = cache
        behind = [span for span in spans if span.stores and not span.asks and span.start]
        self._number = {span: number for number, span in enumerate(behind)}
        self._held = cache.ends([span.sequence.slot for span in behind], None)
        sizes = self._held.widths + np.array([span.num_tokens for span in behind], np.int64)
        self._bundles = sizes.cumsum(axis=1) * cache.table.lengths.shape[2] // GATHERED_ENTRIES
        self._packings: dict[bytes, Packing] = {}

    def kind(self, span: Span, layer: int) -> object:
        """What chunks have in common that go together in a layer: nothing is held of any, or as much as may be copied
        at a time."""
        return int(self._bundles[layer, self._number[span]]) if span in self._number else None

    def attend(
        self,
        spans: abc.Sequence[Span],
        layer: int,
        query_HRD: Tensor,
        born: Entries,
        part: Part,
        features: AttentionFeatures,
        policy: KVPolicy,
        looks: LayerLooks,
    ) -> tuple[Tensor, Tensor, Entries, Packing, Behind | None]:
        """Attention of one layer.

        Within a chunk a policy that votes cannot hide what would have expired by then, for the votes come after the
        attention: those entries are still seen. One whose expiries are fixed at birth hides them exactly.

        Args:
            spans: neighbours that go together.
            layer, query_HRD, features: of the attention.
            born: [K, R], the spans' own entries.
            part: the rows they ran.
            policy: whose rules hold for them.
            looks: the layer's.

        Returns:
            out [H, R, D], its log-sum-exp [H, R], all entries [K, N] with what was found of them, where those of each
            span stand, its own as the last, and how they are read with a member's values; None where nothing is held.
        """
        ops, reduction = self._cache.ops, policy.needs.reduction
        reach = 0 if reduction is None else reduction.reach
        where, behind = self._where(spans, layer, part, reach), self._behind(spans, layer, born, part)
        entries = born if behind is None else behind(born.value, 0)
        last = torch.full_like(entries.expiry, NEVER) if votes(policy) else entries.expiry
        look = DenseLook(ops, part.step_R, *entries[:3], last, (part.packing, where))
        out, lse = looks.see(look, born.value, behind)(query_HRD, features)
        if reduction is not None:
            rows = part.packing
            if not reduction.accumulate:
                rows = part.newest(reduction.window)
                entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
            voted = ops.reduce_columns(
                reduction, query_HRD, lse, part.count_R, *part.counted(entries, last, where),
                features.scale, features.softcap, gap_rule=True, packing=(rows, where),
            )  # fmt: skip
            entries = as_voted(policy, entries, voted)
        return out, lse, entries, where, behind

    def _behind(self, spans: abc.Sequence[Span], layer: int, born: Entries, part: Part) -> Behind | None:
        """How chunks' own entries, with some layer's values, are read behind what a layer has stored of their
        sequences; None where nothing is."""
        if (first := self._number.get(spans[0])) is None:
            return None
        held = self._held.part(slice(first, first + len(spans)))
        packing = part.packing, self._where(spans, layer, part)
        return lambda value, member: self._cache.read_ends(held, layer, born._replace(value=value), packing, member)

    def _where(self, spans: abc.Sequence[Span], layer: int, part: Part, reach: int = 0) -> Packing:
        """Where all entries that chunks see stand, of each, with its hole where hits reach others."""
        if (first := self._number.get(spans[0])) is None:
            return part.packing
        held = self._held.part(slice(first, first + len(spans)))
        widths, sizes, device = held.widths[layer], part.packing.sizes, self._cache.device
        if widths.max() * len(widths) <= _PADDING * widths.sum():
            widths = np.full_like(widths, widths.max())
        key = np.stack((widths, sizes)).tobytes()
        if (where := self._packings.get(key)) is None:
            where = self._packings[key] = Packing.of(sizes + widths, device)
        if reach:
            ends = torch.from_numpy(widths.astype(np.int32)).to(device)
            where = replace(where, hole=(held.length[layer], ends))
        return where


def votes(policy: KVPolicy) -> bool:
    """Whether expiries are what votes make of them, and attention sees what would have expired by then."""
    return policy.needs.reduction is not None and policy.needs.reduction.threshold is not None


def as_voted(policy: KVPolicy, entries: Entries, voted: Entries) -> Entries:
    """Entries with what was gathered of them, and where expiries are votes', with these; positions as they were."""
    return voted._replace(position=entries.position, expiry=voted.expiry if votes(policy) else entries.expiry)
