"""Head tables: a score for every head of a model, measured beforehand, in a spec itself or in a file it names.

{"model": "SmolLM2-135M-Instruct", "weights_sha256": "...", "method": "retrieval", "scores": [[0.1, ...], ...]}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WrapValidator

from corm_batch.budgets.measured import Measured, read_table
from corm_batch.errors import SpecError

Scores = tuple[tuple[float, ...], ...]


class MeasuredScores(Measured, tuple[tuple[float, ...], ...]):
    """Scores out of a file."""

    command = "python -m infra.measure.head_table"


def _read(value: Any, validated: Callable[[Any], Scores]) -> Scores:
    """The scores in the file that a text names, or those given."""
    if not isinstance(value, str):
        scores = validated(value)
        return value if isinstance(value, MeasuredScores) else scores
    table = read_table(value, "head table", "scores", list, "one list of numbers for each layer")
    return MeasuredScores(validated(table["scores"])).told_by(value, table)


def _check(scores: Scores) -> Scores:
    flat = list(chain(*scores))
    if not all(0.0 <= score < float("inf") for score in flat) or sum(flat) <= 0.0:
        raise ValueError("scores must be numbers from 0 on, not all of them 0")
    return scores


HeadScores = Annotated[
    Scores, AfterValidator(_check), Field(min_length=1), WrapValidator(_read, json_schema_input_type=Scores | str)
]
"""The type of a field of scores, [layer][head], or the path of a file that has them."""


def by_kv_head(scores: Scores, num_layers: int, num_kv_heads: int, field: str) -> list[list[float]]:
    """The highest score of each kv head's group, layer by layer.

    Raises:
        SpecError: they are for another kind of model.
    """
    if len(scores) != num_layers:
        raise SpecError(f"{field}: {len(scores)} layers, the model has {num_layers} with entries of their own")
    return [_of_layer(row, num_kv_heads, field) for row in scores]


def _of_layer(row: Sequence[float], num_kv_heads: int, field: str) -> list[float]:
    group, rest = divmod(len(row), num_kv_heads)
    if rest or not group:
        raise SpecError(
            f"{field}: {len(row)} heads in a layer; the model has {num_kv_heads} kv heads, and "
            f"one score, or one for each query head, is wanted of each"
        )
    return [max(row[start : start + group]) for start in range(0, len(row), group)]
