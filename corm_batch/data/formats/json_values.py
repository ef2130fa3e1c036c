"""Arrow values as JSON has them: times in ISO 8601, bytes in Base64, numbers that are none as null."""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import Any

import pyarrow as pa

from corm_batch.data.columns import is_list


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; as text where Python holds none of them, as of times to the nanosecond."""
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        found = column.cast(_with_texts(column.type)).to_pylist()
    return found


def _with_texts(kind: pa.DataType) -> pa.DataType:
    """The type with texts for all times in it."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_texts(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_with_texts(kind.key_type), _with_texts(kind.item_type))
    if is_list(kind):
        return pa.list_(_with_texts(kind.value_type))
    return pa.string() if pa.types.is_temporal(kind) else kind


def json_text(value: Any) -> str:
    """A value in one line; what JSON has none of as text, also decimal numbers, whose digits all count."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain)
    except ValueError:
        return json.dumps(_without_nan(value), ensure_ascii=False, default=plain)


def plain(value: Any) -> str:
    """A value that JSON has none of, as text."""
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    return [_without_nan(one) for one in value] if isinstance(value, list | tuple) else value
