"""with_budgets(): settings of a policy that differ in how much heads may hold, for its `candidates`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from corm_batch.policies.base import ScoringPolicy

Scoring = TypeVar("Scoring", bound=ScoringPolicy)
_ROUND = 16
"""What these budgets are multiples of."""


def with_budgets(
    policy: type[Scoring], num_tokens: int, shares: Sequence[float], budget: str = "uniform", **fields: Any
) -> tuple[Scoring, ...]:
    """A policy with these fields, once for each share of so many tokens that its heads may hold on average."""
    unbounded = policy.model_validate({**fields, "budget": {"name": budget, "max_kept": 1 << 30}})
    least = unbounded.num_pinned + unbounded.num_first + 1
    sizes = dict.fromkeys(max(least, round(share * num_tokens / _ROUND) * _ROUND) for share in shares)
    return tuple(policy.model_validate({**fields, "budget": {"name": budget, "max_kept": size}}) for size in sizes)
