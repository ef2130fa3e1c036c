"""Channels: which channels of their keys lists store, in forms of storage that leave some out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corm_batch.ops.form import Form
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import Column


class Channels:
    """One byte for each channel that a (sequence, layer, kv head) stores; nothing where a form stores all of them.

    Args:
        num_slots, num_layers, num_kv_heads: sizes.
        columns: of an entry; the first is its key's.
        form: in which keys are stored.
        device: where.
    """

    def __init__(
        self, num_slots: int, num_layers: int, num_kv_heads: int, columns: Sequence[Column], form: Form,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._form = form
        shape = num_slots, num_layers, num_kv_heads, columns[0].width or 0
        self._kept = torch.zeros(shape, dtype=torch.uint8, device=device) if form.prunes_keys else None

    def of(self, layer: int, slots: Tensor | slice | int) -> Tensor | None:
        """[..., K, W] uint8, ascending, of one layer's lists; None for all."""
        return None if self._kept is None else self._kept[slots, layer]

    def choose(
        self, slots: Sequence[int], layer: int, query: Tensor, key: Tensor, keep: Tensor, packing: Packing
    ) -> None:
        """Decide for sequences that store nothing in a layer yet.

        Args:
            slots, layer: whose lists.
            query, key: [H, N, D] and [K, N, D] of their tokens.
            keep: [K, N] bool, which of them are stored.
            packing: where those of each stand.
        """
        if self._kept is not None:
            for slot, part in zip(slots, packing.slices, strict=True):
                self._kept[slot, layer] = self._form.channels(query[:, part], key[:, part], keep[:, part])

    def fork(self, slot: int, source: int) -> None:
        """Those of a sequence that begins with all that another one holds."""
        if self._kept is not None:
            self._kept[slot] = self._kept[source]

    def save(self, slot: int) -> Tensor | None:
        """A sequence's, [L, K, W] in host memory."""
        return None if self._kept is None else self._kept[slot].to("cpu", copy=True)

    def restore(self, slot: int, saved: Tensor | None) -> None:
        """Put back what was saved, in a slot that may be another."""
        if self._kept is not None and saved is not None:
            self._kept[slot] = saved.to(self._kept.device)
