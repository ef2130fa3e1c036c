"""Values that a row of the source has for fields of its task: how long its answer may be, how it is drawn.

Knows nothing of what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from corm_batch.errors import DocumentError
from corm_batch.registry import shown

RowField = Literal[
    "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop", "stop_token_ids",
]  # fmt: skip
"""Fields of a task that a row may have a value of its own for."""


def values_of_row(task: type[BaseModel], named: Mapping[RowField, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a row has, by field; a column that is null, or empty as null is in CSV, has none.

    Args:
        task: declares what a field may be.
        named: the column of each field.
        row: column to value.

    Raises:
        DocumentError: a value is none that the field may have.
    """
    found: dict[str, Any] = {}
    for name, column in named.items():
        value = row[column]
        if value is None or (isinstance(value, str) and not value):
            continue
        found[name] = valid_value(task, name, value, f"column {column!r} (task.row_values.{name})")
    return found


def valid_value(task: type[BaseModel], name: str, value: Any, called: str) -> Any:
    """What a value is as that of a field, as a spec's is checked; it is `called` so in messages.

    Raises:
        DocumentError: the field may not have it.
    """
    try:
        if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError("Input should be a number")
        return _adapter(task, name).validate_python(value)
    except ValueError as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DocumentError(f"{called}: {why}, got {shown(value)}") from error


@cache
def _adapter(task: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """What checks a field's values as a spec's are checked."""
    field = task.model_fields[name]
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return TypeAdapter(kind)
