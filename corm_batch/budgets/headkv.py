"""HeadKV: more for the heads that matter more, from a table made beforehand."""

from __future__ import annotations

from pydantic import Field

from corm_batch.budgets.base import Budget, Place
from corm_batch.budgets.head_table import HeadScores, by_kv_head


class HeadKV(Budget, name="headkv"):
    """As many entries for a head as a table of head scores says, `max_kept` on average.

    Based on HeadKV (arXiv 2410.19258), section 3.2: beyond the newest entries, every head gives a share 1 / beta of the
    average to a pool of the whole model, out of which each takes in proportion to its score. Scores are those of
    retrieval heads, of retrieval-reasoning heads, or of anything else that was measured on the same model.
    """

    scores: HeadScores = Field(
        description="[layer][head], from 0 on, or the file that has them; of a group of query heads the highest counts"
    )
    beta: float = Field(1.2, ge=1.0, description="1: all is given by score; the larger, the more evenly")

    def most(self, place: Place, num_tokens: int) -> tuple[int, ...]:
        """What each kv head of the layer may hold."""
        table = by_kv_head(self.scores, place.num_layers, place.num_heads, "policy.budget.scores")
        average = self.average(place, num_tokens) - place.recent
        given = average / self.beta
        pool, total = given * place.num_layers * place.num_heads, sum(map(sum, table))
        return tuple(place.recent + int(score / total * pool + average - given + 1e-6) for score in table[place.layer])
