"""HeadKV: more for the heads that matter more, from a table made beforehand."""

from __future__ import annotations

from itertools import chain
from typing import Self

from pydantic import Field, model_validator

from corm_batch.budgets.base import Budget, Place
from corm_batch.errors import SpecError


class HeadKV(Budget, name="headkv"):
    """As many entries for a head as a table of head scores says, `max_kept` on average.

    Based on HeadKV (arXiv 2410.19258), section 3.2: beyond the newest entries, every head gives a share 1 / beta of the
    average to a pool of the whole model, out of which each takes in proportion to its score. Scores are those of
    retrieval heads, of retrieval-reasoning heads, or of anything else that was measured on the same model.
    """

    scores: tuple[tuple[float, ...], ...] = Field(
        min_length=1, description="[layer][head], from 0 on; of a group of query heads the highest counts"
    )
    beta: float = Field(1.2, ge=1.0, description="1: all is given by score; the larger, the more evenly")

    @model_validator(mode="after")
    def _scores_are_scores(self) -> Self:
        flat = list(chain(*self.scores))
        if not all(0.0 <= score < float("inf") for score in flat) or sum(flat) <= 0.0:
            raise ValueError("scores must be numbers from 0 on, not all of them 0")
        return self

    def most(self, place: Place, num_tokens: int) -> tuple[int, ...]:
        """What each kv head of the layer may hold."""
        table = [self._by_kv_head(row, place) for row in self.scores]
        if len(table) != place.num_layers:
            raise SpecError(f"policy.budget.scores: {len(table)} layers, the model has {place.num_layers}")
        average = max(0, self.max_kept - place.recent)
        given = average / self.beta
        pool, total = given * place.num_layers * place.num_heads, sum(map(sum, table))
        return tuple(place.recent + int(score / total * pool + average - given + 1e-6) for score in table[place.layer])

    def _by_kv_head(self, row: tuple[float, ...], place: Place) -> list[float]:
        """The highest score of each kv head's group."""
        group, rest = divmod(len(row), place.num_heads)
        if rest or not group:
            raise SpecError(
                f"policy.budget.scores: {len(row)} heads in a layer; the model has {place.num_heads} kv heads, and "
                f"one score, or one for each query head, is wanted of each"
            )
        return [max(row[start : start + group]) for start in range(0, len(row), group)]
