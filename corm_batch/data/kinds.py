"""Arrow types: one that holds the values of several, one for Python values, and text for what has none.

Knows nothing of columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

from corm_batch.data.columns import is_list, is_text
from corm_batch.harmless import in_utf8

_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError, NotImplementedError)
_LEVELS_OF_A_TYPE = 64
_FLAT = {str, int, float, bool, bytes, type(None)}
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


class Moment(NamedTuple):
    """A time that Python cannot hold, to the nanosecond or of no calendar: how many units of which Arrow type."""

    units: int
    kind: pa.DataType


class NoText(bytes):
    """What a file calls text, and is no UTF-8."""


def python_value(cell: pa.Scalar) -> Any:
    """A cell as a Python value, `NoText` and `Moment` in it where Python has none; the exception when it is none."""
    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # invalid UTF-8, a time of no calendar
        return _odd_value(cell, error)


def _odd_value(cell: pa.Scalar, error: Exception) -> Any:
    """What `as_py` raised an error for: each part of a nested one by itself."""
    kind = cell.type
    if pa.types.is_temporal(kind):
        return Moment(cell.value, kind)
    if pa.types.is_dictionary(kind):
        return python_value(cell.value)
    if is_text(kind):
        return NoText(cell.as_buffer().to_pybytes())
    if is_list(kind):
        return [python_value(one) for one in cell.values]
    if pa.types.is_map(kind):
        return [(python_value(one[0]), python_value(one[1])) for one in cell.values]
    if pa.types.is_struct(kind) and len({field.name for field in kind}) == kind.num_fields:
        return {name: python_value(one) for name, one in cell.items()}
    return error


def unified(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """The narrowest type that holds the values of all; None where only text does."""
    plain = [storable(kind) for kind in dict.fromkeys(kinds)]
    known = [kind for kind in plain if kind is not None]
    try:
        schemas = [pa.schema([pa.field("column", kind)]) for kind in known]
        found = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, NotImplementedError):
        return None
    return found if len(known) == len(plain) and all(_is_held(kind, found) for kind in known) else None


def storable(kind: pa.DataType) -> pa.DataType | None:
    """The type for the same values that every format holds and of which rows can be taken; None where only text is."""
    if kind in _VIEWS:
        return _VIEWS[kind]
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return storable(kind.value_type)
    if pa.types.is_interval(kind) or pa.types.is_union(kind):
        return None
    if pa.types.is_map(kind):
        key, item = storable(kind.key_type), storable(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if is_list(kind):
        inner = storable(kind.value_type)
        if inner is None or (inner == kind.value_type and not _is_view(kind)):
            return None if inner is None else kind
        return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(field, storable(field.type)) for field in kind]
        names = {field.name for field in kind}
        # an object without fields is none in Parquet, one with two of a name none in Python
        if not fields or len(names) < len(fields) or any(inner is None for _, inner in fields):
            return None
        return pa.struct([field.with_type(inner) for field, inner in fields])
    return kind


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


def as_json(value: Any, **options: Any) -> str:
    """A value as JSON; what JSON has none of as text, keys of objects among it.

    Raises:
        ValueError, RecursionError: it holds itself, or nests too deep.
    """
    try:
        return _encoder(**options).encode(value)
    except TypeError:  # keys that are no text, or of several types where they are sorted
        return _encoder(**options).encode(_with_text_keys(value))


@cache
def _encoder(**options: Any) -> json.JSONEncoder:
    """As `json.dumps` makes one, but not for every value."""
    return json.JSONEncoder(default=str, **options)


def is_shallow(value: Any, levels: int) -> bool:
    """Whether a value nests no deeper than this, as one that holds itself does."""
    if type(value) in _FLAT or not isinstance(value, dict | list | tuple | Mapping):
        return True
    if levels <= 0:
        return False
    for one in value.values() if isinstance(value, dict | Mapping) else value:  # a plain loop: of all that is carried
        if type(one) not in _FLAT and not is_shallow(one, levels - 1):
            return False
    return True


def spelled(value: Any) -> str | None:
    """A value as text, as JSON where it is none; what UTF-8 cannot hold is replaced."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Moment):
        return str(pa.scalar(*value).cast(pa.string()))
    if value is None:
        return None
    try:
        text = (
            as_json(value, ensure_ascii=False) if isinstance(value, list | tuple | dict | int | float) else str(value)
        )
    except (ValueError, RecursionError):
        text = f"<{type(value).__name__} that nests too deep or holds itself>"
    return in_utf8(text)


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _with_text_keys(one) for name, one in value.items()}
    return [_with_text_keys(one) for one in value] if isinstance(value, list | tuple) else value


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _is_held(kind: pa.DataType, wider: pa.DataType) -> bool:
    """Whether a type that Arrow would cast another to keeps its values: text is not bytes, nor is a decimal a float."""
    if pa.types.is_struct(kind):
        return all(_is_held(field.type, wider.field(field.name).type) for field in kind)
    if pa.types.is_map(kind):
        return _is_held(kind.key_type, wider.key_type) and _is_held(kind.item_type, wider.item_type)
    if is_list(kind):
        return _is_held(kind.value_type, wider.value_type)
    if pa.types.is_decimal(kind):
        return not pa.types.is_floating(wider)
    return is_text(wider) or not is_text(kind)


def _exact(values: Sequence[Any], kind: pa.DataType | None) -> pa.Array | None:
    """The values in a type, or one that Arrow finds; None where it would not hold them as they are."""
    if not all(is_shallow(value, _LEVELS_OF_A_TYPE) for value in values):
        return None  # Arrow would follow one that holds itself until the process ends
    try:
        if any(isinstance(value, Moment) for value in values):
            if kind is None:
                return None
            cells = (pa.scalar(*one).cast(kind) if isinstance(one, Moment) else pa.scalar(one, kind) for one in values)
            return pa.array(cells, kind)
        if isinstance(kind, pa.UuidType):
            plain = [value.bytes if isinstance(value, UUID) else value for value in values]
            found = pa.ExtensionArray.from_storage(kind, pa.array(plain, kind.storage_type))
        else:
            found = pa.array(values, kind)
        if not all(map(_same, values, found.to_pylist())):
            return None
        plain_kind = storable(found.type)
        return found if plain_kind == found.type else None if plain_kind is None else _exact(values, plain_kind)
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
    if isinstance(value, bytes) and isinstance(held, str):
        return value == held.encode("utf-8")
    return isinstance(value, bool) == isinstance(held, bool) and bool(
        value == held or (value != value and held != held)
    )
