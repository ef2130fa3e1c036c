"""CORM: keep what one of the recent queries found important."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from corm_batch.ops.reduction import Reduction
from corm_batch.policies.base import BudgetedPolicy, Seen
from corm_batch.policies.needs import Needs

_LONGEST = 1 << 29
"""Steps that `window` and `recent` may be: far beyond any context, and sums of them are still int32."""

_PRESETS = {"paper": {"window": 256, "recent": 256, "tau": 1.0, "threshold": "step", "reach": 0}}
"""Settings of the four fields by the name that `preset` has for them."""


class Corm(BudgetedPolicy, name="corm"):
    """Keep the keys that one of the last `window` queries found important, and the newest `recent` ones.

    Key i is important to the query of step t iff its softmax weight a[t, i] >= tau / t; a key that was minor to all of
    the last `window` queries leaves, the newest `recent` keys never do. Decided per layer and kv head.

    Based on CORM: Cache Optimization with Recent Message (arXiv 2404.15949), Definitions 1 and 2 and Algorithm 1.
    Deviations:
    * grouped-query attention: a key is minor only if it is minor to every query head of its group. The paper states no
      rule; this one alone keeps the meaning of "minor to all recent queries".
    * the boolean message of window x n is replaced by one number per key, its expiry: a key leaves at the end of step
      max(position + recent, window, last hit + window). `window` alone stands for "keep all while fewer than `window`
      queries have been seen", the paper's first steps.
    * `tau` scales the threshold (the paper: 1), `threshold="cache"` divides by the entries the query sees instead of
      its step, and `budget` bounds the heads for good, longest not found important first.
    * `reach` lets a hit count for the neighbouring tokens too (the paper: 0). A question finds the name of a fact
      important, seldom the digits behind it, which the answer reads one by one later; SnapKV (arXiv 2404.14469) pools
      its scores over neighbours for the same reason.
    * the defaults: few queries vote for few keys, and for their neighbours. `preset: paper` is the paper's setting,
      which loses facts that these keep, and frees less (README.md here has the figures).
    """

    preset: Literal["paper"] | None = Field(
        None, exclude=True, description="paper: window 256, recent 256, tau 1, threshold step, reach 0, where not given"
    )
    window: int = Field(128, ge=1, le=_LONGEST, description="recent queries that vote (the paper's w)")
    recent: int = Field(64, ge=1, le=_LONGEST, description="newest entries that never leave (the paper's r)")
    tau: float = Field(36.0, gt=0.0, description="a key is important at a weight of tau / t or more")
    threshold: Literal["step", "cache"] = Field("step", description="t: the query's step, or the entries it sees")
    reach: int = Field(64, ge=0, le=64, description="a hit also keeps the keys this many tokens before and after it")

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_preset(cls, data: Any) -> Any:
        """What is not given is as the preset says; a policy with it equals one with its settings written out."""
        if isinstance(data, dict) and data.get("preset") in _PRESETS:
            preset = _PRESETS[data["preset"]]
            return preset | {name: value for name, value in data.items() if name != "preset"}
        return data

    @classmethod
    def candidates(cls, num_tokens: int) -> tuple[Self, ...]:
        """The default, stricter and milder ones around it, and the paper's."""
        around: list[dict[str, Any]] = [{}, {"tau": 16.0}, {"tau": 256.0}, {"reach": 16}, {"preset": "paper"}]
        return tuple(cls.model_validate(fields) for fields in around)

    @property
    def needs(self) -> Needs:
        """Hits of the last `window` queries."""
        return Needs(reduction=Reduction(self.window, self.threshold, self.tau, self.reach))

    def expiry(self, layer: int, position: Tensor) -> Tensor:
        """Without a hit: `recent` steps after birth, and never before step `window`."""
        return torch.clamp(position + self.recent, min=self.window)

    def rank(self, layer: int, entries: Seen, step: int | Tensor) -> Tensor:
        """The newest `recent` entries first, then the latest hit, which is the latest expiry.

        No entry expires later than `window` steps from now, and none of the newest before the next step.
        """
        return torch.add(entries.expiry, entries.position > step - self.recent, alpha=self.window)
