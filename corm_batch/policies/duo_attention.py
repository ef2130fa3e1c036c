"""DuoAttention: heads that retrieve keep everything, the others the first entries and the newest."""

from __future__ import annotations

from itertools import chain
from typing import Self

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from corm_batch.budgets.head_table import HeadScores, by_kv_head
from corm_batch.errors import SpecError
from corm_batch.ops.pages import NEVER
from corm_batch.policies.base import EvictingPolicy
from corm_batch.policies.model import Model


class DuoAttention(EvictingPolicy, name="duo_attention"):
    """Keep everything in the kv heads of the highest scores, and `sinks` and `recent` entries in all others.

    Based on DuoAttention (arXiv 2410.10819), section 2: retrieval heads have a full cache, streaming heads attend to
    sinks and recent tokens alone; which is which is said by a table measured on the same model. Deviations:
    * scores are what the table has: the paper's are gates trained on synthetic passkeys; those of retrieval heads serve
      as well (`infra/measure/head_table.py` measures them).
    * exact prefill reads the whole prompt with full attention in every head and evicts at its end; with
      `prefill: streaming` a streaming head's query sees what the paper lets it see.
    """

    scores: HeadScores = Field(
        description="[layer][head], from 0 on, or the file that has them; of a group of query heads the highest counts"
    )
    full_share: float = Field(0.5, ge=0.0, le=1.0, description="share of the model's kv heads that keep everything")
    sinks: int = Field(128, ge=0, description="first entries that never leave a streaming head")
    recent: int = Field(256, ge=1, description="newest entries that stay in a streaming head, a query's own included")

    _full: tuple[tuple[bool, ...], ...] = PrivateAttr(default=())
    _masks: dict[tuple[int, torch.device], Tensor] = PrivateAttr(default_factory=dict)

    def for_model(self, model: Model) -> Self:
        """With the heads of the highest scores, of equals the first, chosen over the whole model."""
        table = by_kv_head(self.scores, model.num_layers, model.num_kv_heads, "policy.scores")
        scores = list(chain(*table))
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        chosen = set(order[: round(self.full_share * len(order))])
        heads = range(model.num_kv_heads)[model.own_heads]
        own = self.model_copy()
        own._full = tuple(
            tuple(layer * model.num_kv_heads + head in chosen for head in heads) for layer in range(model.num_layers)
        )
        own._masks = {}
        return own

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Never in retrieval heads and for sinks; else the last step whose newest `recent` entries hold it."""
        streaming = torch.where(position <= self.sinks, NEVER, position + (self.recent - 1))
        return torch.where(self._keeps_all(layer, position.device), NEVER, streaming)

    def _keeps_all(self, layer: int, device: torch.device) -> Tensor:
        """[K, 1] bool; made once for each device: a captured step copies nothing to it."""
        if not self._full:
            raise SpecError("policy duo_attention: serves a model, whose heads `for_model` has to be told first")
        if (layer, device) not in self._masks:
            self._masks[layer, device] = torch.tensor(self._full[layer], device=device)[:, None]
        return self._masks[layer, device]
