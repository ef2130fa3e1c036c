"""Propagating: a propagation at work in one model: which tokens of a pass over prompts its later layers run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corm_batch.engine.attention import AttentionFeatures
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.narrowing import let_rows_leave
from corm_batch.engine.ranks import Ranks
from corm_batch.errors import SpecError
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction
from corm_batch.ops.select import Ops
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation.base import Propagation, propagation_problem


@dataclass(frozen=True)
class Propagating:
    """What chooses the tokens.

    Attributes:
        propagation: by what rule.
        layer: the index of the layer whose attention decides, the last that runs every token.
        ranks: those that have the other heads: all have to choose the same.
        ops: of the device.
    """

    propagation: Propagation
    layer: int
    ranks: Ranks
    ops: Ops

    @property
    def votes(self) -> Reduction:
        """What the rule sees of the deciding layer: what a policy has counted just so need not be counted again."""
        return Reduction(self.propagation.window, accumulate=False)

    def keep_rows(
        self,
        query_HRD: Tensor,
        key_KRD: Tensor,
        lse_HR: Tensor,
        step_R: Tensor,
        features: AttentionFeatures,
        pinned_R: Tensor | None = None,
        statistic_KR: Tensor | None = None,
    ) -> Tensor:
        """Which of one document's tokens go on.

        Args:
            query_HRD, key_KRD, lse_HR, step_R, features: of these tokens in the deciding layer, in order.
            pinned_R: bool, those that the document's policy pins; they go on.
            statistic_KR: what `votes` makes of the layer, where that is known.

        Returns:
            [R] bool.
        """
        rule, num_rows = self.propagation, len(step_R)
        if statistic_KR is None:
            position, rows = step_R.expand(len(key_KRD), -1), slice(-min(rule.window, num_rows), None)
            never, nothing = torch.full_like(position, NEVER), torch.zeros_like(position, dtype=torch.float32)
            statistic_KR = self.ops.reduce_columns(
                self.votes, query_HRD[:, rows], lse_HR[:, rows], step_R[rows],
                Entries(key_KRD, key_KRD, position, never, nothing), never, features.scale, features.softcap,
                gap_rule=False,
            ).statistic  # fmt: skip
        stay = (step_R <= rule.first) | (step_R > step_R[-1] - rule.recent)
        score = self.ranks.gather_heads(statistic_KR).mean(dim=0)
        return rule.keep_rows(score, stay if pinned_R is None else stay | pinned_R)


def propagating(propagation: Propagation | None, model: LoadedModel, policy: KVPolicy, ops: Ops) -> Propagating | None:
    """The propagation as it serves a model, whose layers it prepares; None for none.

    Raises:
        SpecError: it cannot under this policy, or names a layer that the model has not.
        UnsupportedModelError: the model's layers cannot run on some of the tokens.
    """
    if propagation is None:
        return None
    if problem := propagation_problem(propagation, policy):
        raise SpecError(problem)
    layer = propagation.deciding_layer(model.windows)
    config: Any = model.module.config
    let_rows_leave(model.module, model.shape.vocab_size, layer, config.model_type)
    return Propagating(propagation, layer, model.ranks, ops)
