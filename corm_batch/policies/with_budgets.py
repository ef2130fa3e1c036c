"""with_budgets(): settings of a policy that differ in how much heads may hold, for its `candidates`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from corm_batch.policies.base import ScoringPolicy

Scoring = TypeVar("Scoring", bound=ScoringPolicy)


def with_budgets(
    policy: type[Scoring], shares: Sequence[float], budget: str = "uniform", **fields: Any
) -> tuple[Scoring, ...]:
    """A policy with these fields, once for each share of a document that its heads may hold on average: what holds on
    the documents that were tried is to hold on longer and shorter ones."""
    return tuple(policy.model_validate({**fields, "budget": {"name": budget, "max_kept": share}}) for share in shares)
