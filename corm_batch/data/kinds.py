"""Arrow types: one that holds the values of several, one for Python values, and text for what has none.

Knows nothing of columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError)


class Moment(NamedTuple):
    """A time that Python cannot hold, to the nanosecond or of no calendar: how many units of which Arrow type."""

    units: int
    kind: pa.DataType


def python_value(cell: pa.Scalar) -> Any:
    """A cell as a Python value; the exception when it is none, which Parquet lets happen."""
    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # invalid UTF-8, a time of no calendar
        return Moment(cell.value, cell.type) if pa.types.is_temporal(cell.type) else error


def unified(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """The narrowest type that holds the values of all; None where only text does."""
    schemas = [pa.schema([pa.field("column", _plain(kind))]) for kind in dict.fromkeys(kinds)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, NotImplementedError):
        return None


def kind_of(values: Sequence[Any]) -> pa.DataType:
    """The type of Python values; text where no type holds them all."""
    found = _exact(values, None)
    return pa.string() if found is None else found.type


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values in a type; where it would change one of them in another that does not, be it text."""
    for attempt in (kind, None):
        if (found := _exact(values, attempt)) is not None:
            return found
    return pa.array(map(spelled, values), pa.string())


def spelled(value: Any) -> str | None:
    """A value as text, as JSON where it is none; what UTF-8 cannot hold is replaced."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Moment):
        return str(pa.scalar(*value).cast(pa.string()))
    if value is not None and not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return None if value is None else value.encode("utf-8", "replace").decode("utf-8")


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _exact(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array | None:
    """The values in a type, or one that Arrow finds; None where it would not hold them as they are."""
    try:
        if any(isinstance(value, Moment) for value in values):
            if kind is None:
                return None
            cells = [pa.scalar(*value).cast(kind) if isinstance(value, Moment) else value for value in values]
            return pa.array(
                [pa.scalar(cell, kind) if not isinstance(cell, pa.Scalar) else cell for cell in cells], kind
            )
        if isinstance(kind, pa.UuidType):
            plain = [value.bytes if isinstance(value, UUID) else value for value in values]
            found = pa.ExtensionArray.from_storage(kind, pa.array(plain, kind.storage_type))
        else:
            found = pa.array(values, kind)
        return found if all(map(_same, values, found.to_pylist())) else None
    except _REFUSALS:
        return None


def _same(value: Any, held: Any) -> bool:
    """Whether a value came back: a field that is not there is null, a whole number may be a float, a list a tuple."""
    if isinstance(value, Mapping) and isinstance(held, Mapping):
        return value.keys() <= held.keys() and all(_same(value.get(name), one) for name, one in held.items())
    if isinstance(value, list | tuple) and isinstance(held, list | tuple):
        return len(value) == len(held) and all(map(_same, value, held))
    if isinstance(value, str) and isinstance(held, bytes):
        return value.encode("utf-8", "surrogatepass") == held
    return isinstance(value, bool) == isinstance(held, bool) and bool(
        value == held or (value != value and held != held)
    )
