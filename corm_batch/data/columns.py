"""Columns by name: of a file, of the folders that it lies in (`year=2020`), or behind dots inside other columns.

A column whose whole name is asked for goes before one that dots lead to, and a file's own before its folders'. Knows
nothing of what values mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_columns(uri: str) -> dict[str, str | None]:
    """What the folders of a file say, `name=value` each, as Hive and Spark write them; text, for 07 is not 7."""
    pairs = (folder.partition("=") for folder in uri.split("/")[:-1])
    return {
        unquote(name): None if value == _NULL else unquote(value) for name, equals, value in pairs if name and equals
    }


def listed(name: str) -> str:
    """The name of a column as a message lists it: in quotes where blanks, or that it is none, would not be seen."""
    return name if name == name.strip() != "" and name.isprintable() else repr(name)


def value_in(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column of a row, or of what dots lead to; None where there is none."""
    try:
        return _found(row, name)
    except KeyError:
        return None


def is_in(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a column, or what dots lead to, be it null."""
    try:
        _found(row, name)
    except KeyError:
        return False
    return True


def _found(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    for head, rest in _parted(name):
        if head in row:
            return _inside(row[head], rest)
    raise KeyError(name)


def _inside(value: Any, name: str) -> Any:
    """In an object one field, in a list those of all its entries."""
    if isinstance(value, Exception):
        return value
    if isinstance(value, Mapping):
        return _found(value, name)
    if not isinstance(value, list):
        raise KeyError(name)
    if value and all(map(_is_pair, value)):  # a map, as Arrow gives it
        return _found(dict(value), name)
    found, is_there = [], not value
    for entry in value:
        try:
            found.append(_inside(entry, name))
            is_there = True
        except KeyError:
            found.append(None)
    if not is_there:
        raise KeyError(name)
    return found


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)


@dataclass(frozen=True)
class Place:
    """Where a column of an Arrow schema is.

    Attributes:
        column: the column of the schema that holds it.
        path: what a reader of Parquet has to read of that column, dots between the names.
        kind: its type.
    """

    column: str
    path: str
    kind: pa.DataType

    def value_in(self, row: Mapping[str, Any], name: str) -> Any:
        """What `value_in` finds there in a row; None in an empty map, which Arrow gives as an empty list."""
        return _of_kind(value_in(row, name), self.kind)


def _of_kind(value: Any, kind: pa.DataType) -> Any:
    if not isinstance(value, list) or pa.types.is_map(kind):
        return value
    if is_list(kind):
        return [_of_kind(entry, kind.value_type) for entry in value]
    return value or None


def place_in(schema: pa.Schema, name: str) -> Place:
    """Where `value_in` finds a column in the rows of this schema.

    Raises:
        KeyError: nowhere, or in two places.
    """
    for head, rest in ((name, None), *_parted(name)):
        count = schema.names.count(head)
        if count == 1:
            kind, path = schema.field(head).type, head
            return Place(head, *((path, kind) if rest is None else _leading(kind, path, rest)))
        if count:
            break
    raise KeyError(name)


def _leading(kind: pa.DataType, path: str, name: str) -> tuple[str, pa.DataType]:
    """Path and type of what a name leads to inside a type that `path` leads to."""
    if pa.types.is_map(kind) and is_text(kind.key_type):
        for _, behind in _parted(name):
            try:
                return path, _leading(kind.item_type, path, behind)[1]
            except KeyError:
                continue
        return path, kind.item_type
    if is_list(kind):
        return path, pa.list_(_leading(kind.value_type, path, name)[1])
    if pa.types.is_struct(kind):
        for head, rest in ((name, None), *_parted(name)):
            if (place := kind.get_field_index(head)) >= 0:
                inner = f"{path}.{head}", kind.field(place).type
                return inner if rest is None else _leading(inner[1], inner[0], rest)
    raise KeyError(name)


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text of any kind, be it from a dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind, but no map."""
    checks = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(check(kind) for check in checks)


def _parted(name: str) -> Iterator[tuple[str, str]]:
    """A name in two at each of its dots, the longest beginning first."""
    place = name.rfind(".")
    while place > 0:
        yield name[:place], name[place + 1 :]
        place = name.rfind(".", 0, place)
