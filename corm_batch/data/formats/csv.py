"""CSV in UTF-8 with a line of names: text in quotes, null empty and without, lists and objects as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv

from corm_batch.data.formats.base import Format
from corm_batch.data.formats.json_values import json_text, plain, values_of

_AS_THEY_ARE = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_decimal,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
    pa.types.is_null,
)


class Csv(Format, name="csv"):
    """CSV with a line of names, for spreadsheets."""

    suffixes = (".csv",)
    is_text = True

    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write `pieces` below one line of names."""
        flat = pa.schema([field.with_type(_flat(field.type)) for field in schema])
        with csv.CSVWriter(sink, flat) as writer:
            for piece in pieces:
                columns = [_column(column, kind) for column, kind in zip(piece.columns, flat.types, strict=True)]
                writer.write_table(pa.table(columns, schema=flat))


def _flat(kind: pa.DataType) -> pa.DataType:
    return kind if any(check(kind) for check in _AS_THEY_ARE) else pa.string()


def _column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    return column if column.type == kind else pa.array(map(_text, values_of(column)), pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json_text(value) if isinstance(value, list | tuple | dict) else plain(value)
