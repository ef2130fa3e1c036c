"""L2 norm: keep the keys of small norm, which attention finds again and again."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from corm_batch.budgets.base import Budget
from corm_batch.ops.pages import Column
from corm_batch.policies.base import ScoringPolicy, Seen
from corm_batch.policies.model import Model


class L2Norm(ScoringPolicy, name="l2_norm"):
    """Keep the keys of the smallest norm; the first layers, where norms say little, keep all of theirs.

    Based on A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression (arXiv 2406.11430), section 3. The
    norm of a key is taken at its birth and kept with it: no query is asked and no key read again. Deviations:
    * `recent` protects the newest entries; the paper protects none (0).
    * the budget counts entries, where the paper's keeps a share of them.
    """

    recent: int = Field(256, ge=0, description="newest entries that never leave, part of the budget (the paper: 0)")
    skip_layers: tuple[int, ...] = Field((0, 1), description="layers that keep everything")

    columns: ClassVar[tuple[Column, ...]] = (Column("norm"),)

    def for_model(self, model: Model) -> Self:
        """The layers to skip as the policy is asked about them: those that share others' entries do not count."""
        if model.own_layers is None:
            return self
        rows = tuple(row for row, layer in enumerate(model.own_layers) if layer in self.skip_layers)
        return self.model_copy(update={"skip_layers": rows})

    def born(self, layer: int, key: Tensor, value: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """The key's norm; rotation has not changed it."""
        return (torch.linalg.vector_norm(key, dim=-1, dtype=torch.float32),)

    def budget_at(self, layer: int) -> Budget | None:
        """None for a layer that keeps everything."""
        return None if layer in self.skip_layers else self.budget

    def score(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The smaller the norm, the higher."""
        return -entries["norm"]
