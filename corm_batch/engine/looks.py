"""Looks: what the queries of a layer looked at in a pass over prompts, for layers behind it that borrow its entries.

A layer's survivors take the place of what its pages held as soon as it has attended, and what was evicted is gone: who
borrows looks at the same entries as the owner's queries did, which are held until the last borrower has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.rows import Part
from corm_batch.kv.layers import Layers
from corm_batch.ops.causal import packed_causal_attention
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Entries
from corm_batch.ops.select import Ops

Look = Callable[[Tensor, AttentionFeatures], tuple[Tensor, Tensor]]
"""Attention of queries [H, R, D] over entries that are the same for all layers that ask: out [H, R, D] and its
log-sum-exp [H, R]."""


class Looks:
    """Those of one pass.

    Args:
        layers: which of them look at the same.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._noted: dict[int, deque[Look]] = {}

    def of(self, layer: int) -> deque[Look]:
        """Where a layer's looks are noted in their order, or, of one that borrows, have been; each is for taking out
        at the left. Nothing stays there of what nobody else wants: it would be memory held for nothing."""
        row, outlives = self._layers.row(layer), self._layers.outlives(layer)
        if layer not in self._layers.borrowers:
            noted = deque[Look](maxlen=None if outlives else 0)
            if outlives:
                self._noted[row] = noted
            return noted
        return self._noted[row].copy() if outlives else self._noted.pop(row)


def causal_look(ops: Ops, key_KRD: Tensor, value_KRD: Tensor, part: Part) -> Look:
    """A look at the whole sequences, or at those of their tokens that are there, whose keys and values these are."""

    def look(query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        return packed_causal_attention(
            query_HRD, key_KRD, value_KRD, part.packing, features.scale, features.softcap, features.window,
            features.sink_H, dense=ops.dense_attention, step_T=None if part.all_there else part.step_R,
        )  # fmt: skip

    return look


def dense_look(
    ops: Ops, step_R: Tensor, entries: Entries, last_KN: Tensor, packing: tuple[Packing, Packing] | None = None
) -> Look:
    """A look at entries [K, N] from their positions to some last step.

    Args:
        ops: which of them.
        step_R: int32, of the queries.
        entries, last_KN: as said.
        packing: as `dense_attention` has it.
    """
    key, value, position = entries.key, entries.value, entries.position

    def look(query_HRD: Tensor, features: AttentionFeatures) -> tuple[Tensor, Tensor]:
        return ops.dense_attention(
            query_HRD, key, value, step_R, position, last_KN, features.scale, features.softcap, features.sink_H, packing
        )

    return look
