"""Head tables: a score for every head of a model, measured beforehand, in a spec itself or in a file it names.

    {"model": "SmolLM2-135M-Instruct", "weights_sha256": "...", "method": "retrieval", "scores": [[0.1, ...], ...]}

A file's scores take the place of its path as soon as a spec is read: they, not where they lay, are what counts. Which
weights they were measured on is remembered beside them for as long as the spec is not written out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, WrapValidator

from corm_batch.errors import SpecError

Scores = tuple[tuple[float, ...], ...]


class MeasuredScores(tuple[tuple[float, ...], ...]):
    """Scores out of a file; equal to the same ones without it.

    Attributes:
        origin: the file.
        model: on which it says that they were measured.
        weights_sha256: of that model; None where it does not say.
    """

    origin: str
    model: str
    weights_sha256: str | None

    @classmethod
    def of(cls, scores: Scores, origin: str, table: Mapping[str, Any]) -> MeasuredScores:
        """The scores of the table in a file."""
        made = cls(scores)
        made.origin, made.model = origin, str(table.get("model"))
        weights = table.get("weights_sha256")
        made.weights_sha256 = weights if isinstance(weights, str) else None
        return made


def measured_scores(owner: BaseModel, path: str) -> Iterator[tuple[str, MeasuredScores]]:
    """Those in the fields of a policy, of its budget and so on; each with its path, which begins with `path`."""
    for name, value in owner:
        if isinstance(value, MeasuredScores):
            yield f"{path}.{name}", value
        elif isinstance(value, BaseModel):
            yield from measured_scores(value, f"{path}.{name}")


def _read(value: Any, validated: Callable[[Any], Scores]) -> Scores:
    """The scores in the file that a text names, or those given."""
    if not isinstance(value, str):
        scores = validated(value)
        return value if isinstance(value, MeasuredScores) else scores
    table = _table(value)
    return MeasuredScores.of(validated(table["scores"]), value, table)


def _table(value: str) -> dict[str, Any]:
    """What the file holds."""
    try:
        table = json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"no head table there: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"no head table: it is no JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("scores"), list):
        raise ValueError('no head table: it has no "scores", one list of numbers for each layer')
    return table


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
        raise SpecError(f"{field}: {len(scores)} layers, the model has {num_layers}")
    return [_of_layer(row, num_kv_heads, field) for row in scores]


def _of_layer(row: Sequence[float], num_kv_heads: int, field: str) -> list[float]:
    group, rest = divmod(len(row), num_kv_heads)
    if rest or not group:
        raise SpecError(
            f"{field}: {len(row)} heads in a layer; the model has {num_kv_heads} kv heads, and "
            f"one score, or one for each query head, is wanted of each"
        )
    return [max(row[start : start + group]) for start in range(0, len(row), group)]
