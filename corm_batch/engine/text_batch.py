"""TextBatch: a text in one pass of its own that leaves nothing in a cache, for whoever looks at what a model does."""

from __future__ import annotations

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.ops.causal import causal_attention


class TextBatch:
    """Exact attention over one text.

    Args:
        ids: [T] of the text.
    """

    def __init__(self, ids: Tensor) -> None:
        self.input_ids = ids
        self.positions = self.logit_rows = torch.arange(len(ids), device=ids.device)

    def attend(
        self, layer: int, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> Tensor:
        """Causal attention of one layer, [H, T, D]."""
        out, _ = self.attend_causally(query_HTD, *self.seen(layer, key_KTD, value_KTD), features)
        return out

    def seen(self, layer: int, key_KTD: Tensor, value_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that queries see in a layer: its own."""
        return key_KTD, value_KTD

    def attend_causally(
        self, query_HTD: Tensor, key_KTD: Tensor, value_KTD: Tensor, features: AttentionFeatures
    ) -> tuple[Tensor, Tensor]:
        """Causal attention and its log-sum-exp, [H, T]."""
        return causal_attention(
            query_HTD, key_KTD, value_KTD, features.scale, features.softcap, features.window, features.sink_H
        )
