"""Chunks: tokens of several sequences that each see what their own has stored, and each other.

    entries of one launch    [ held by 1 | padding | chunk of 1 ] [ held by 2 | padding | chunk of 2 ] ...
    rows                                   [ 1 ]                                   [ 2 ]

All rows of a chunk vote, under the gap rule, or the newest of those that score.
"""

from __future__ import annotations

from collections import abc

import numpy as np
import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.looks import Behind, DenseLook, LayerLooks
from corm_batch.engine.rows import Part
from corm_batch.engine.work import Span
from corm_batch.kv.cache import KVCache
from corm_batch.kv.stage import GATHERED_ENTRIES, Ends
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
        ops, reduction, behind = self._cache.ops, policy.needs.reduction, None
        where, held = part.packing, self._held_of(spans)
        if held is not None:
            where = self._where(held.widths[layer], part)
            behind = self._behind(held, layer, born, (part.packing, where))
        entries = born if behind is None else behind(born.value, 0)
        last = torch.full_like(entries.expiry, NEVER) if votes(policy) else entries.expiry
        look = DenseLook(ops, part.step_R, *entries[:3], last, (part.packing, where))
        out, lse = looks.see(look, born.value, behind)(query_HRD, features)
        if reduction is not None:
            rows, columns = part.packing, where
            if held is not None and reduction.reach:
                columns = where.with_hole(held.length[layer], part.packing)
            if not reduction.accumulate:
                rows = part.newest(reduction.window)
                entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
            voted = ops.reduce_columns(
                reduction, query_HRD, lse, part.count_R, *part.counted(entries, last, where),
                features.scale, features.softcap, gap_rule=True, packing=(rows, columns),
            )  # fmt: skip
            entries = as_voted(policy, entries, voted)
        return out, lse, entries, where, behind

    def _held_of(self, spans: abc.Sequence[Span]) -> Ends | None:
        """What the sequences of neighbours hold; None for nothing."""
        first = self._number.get(spans[0])
        return None if first is None else self._held.part(slice(first, first + len(spans)))

    def _behind(self, held: Ends, layer: int, born: Entries, packing: tuple[Packing, Packing]) -> Behind:
        """How chunks' own entries, with some layer's values, are read behind what their sequences hold in a layer."""
        return lambda value, member: self._cache.read_ends(held, layer, born._replace(value=value), packing, member)

    def _where(self, widths: np.ndarray, part: Part) -> Packing:
        """Where all entries stand that chunks see behind lists of these widths."""
        if widths.max() * len(widths) <= _PADDING * widths.sum():
            widths = np.full_like(widths, widths.max())
        key = np.stack((widths, part.packing.sizes)).tobytes()
        if (where := self._packings.get(key)) is None:
            where = self._packings[key] = Packing.of(part.packing.sizes + widths, self._cache.device)
        return where


def votes(policy: KVPolicy) -> bool:
    """Whether expiries are what votes make of them, and attention sees what would have expired by then."""
    return policy.needs.reduction is not None and policy.needs.reduction.threshold is not None


def as_voted(policy: KVPolicy, entries: Entries, voted: Entries) -> Entries:
    """Entries with what was gathered of them, and where expiries are votes', with these; positions as they were."""
    return voted._replace(position=entries.position, expiry=voted.expiry if votes(policy) else entries.expiry)
