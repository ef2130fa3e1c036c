"""Parquet files as documents: one split a row group, only the needed columns read. Knows nothing of what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.document import Document
from corm_batch.data.filesystem import open_file
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.files import FileSource
from corm_batch.errors import ColumnsError

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 32, 64 << 20  # a row group of gigabytes then takes a few times as much, and a page
_READ_BYTES = 4 << 20


class ParquetSource(FileSource, name="parquet"):
    """Rows of Parquet files, one document a row."""

    suffixes = (".parquet", ".pq")

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """Row groups that hold rows, by position; reads the file's footer alone."""
        with open_file(uri) as file:
            parquet = pq.ParquetFile(file)
            counts = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
            if any(counts):
                self._check_columns(uri, parquet.schema_arrow, columns)
            return [Split(uri, index, num_rows) for index, num_rows in enumerate(counts) if num_rows]

    def documents(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """The documents of one row group, a few rows in memory at a time."""
        with open_file(split.uri) as file:
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES, page_checksum_verification=True)
            wanted = self._check_columns(split.uri, parquet.schema_arrow, columns)
            row, rows_at_once = 0, _rows_at_once(parquet.metadata.row_group(split.index))
            for batch in parquet.iter_batches(rows_at_once, row_groups=[split.index], columns=wanted):
                for cells in zip(*(batch.column(name) for name in wanted), strict=True):
                    values = dict(zip(wanted, map(_value, cells), strict=True))
                    yield self.document(values, columns, f"{split.uri}#{split.index}:{row}")
                    row += 1

    def _check_columns(self, uri: str, schema: pa.Schema, columns: Sequence[str]) -> list[str]:
        """The columns to read; a file that lacks one, or holds no text there, is refused."""
        id_column, wanted = self.id_in(schema.names), self.wanted(columns, schema.names)
        for name in wanted:
            if schema.names.count(name) != 1:
                found = ", ".join(f"{field.name} ({field.type})" for field in schema)
                raise ColumnsError(uri, f"one column {name!r} is wanted; the file has: {found or 'none'}")
        text = schema.field(self.text_column).type
        if not _is_text(text):
            raise ColumnsError(uri, f"column {self.text_column!r} (text_column) must hold text, not {text}")
        if id_column is not None and not _may_be_ids(doc_id := schema.field(id_column).type):
            allowed = "text, whole numbers or UUIDs"
            raise ColumnsError(uri, f"column {id_column!r} (id_column) must hold {allowed}, not {doc_id}")
        return wanted


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """Rows that fit `_BYTES_AT_ONCE` even if a dictionary makes each as large as all that the file holds of them.

    Nothing is asked of a single column: where a damaged footer contradicts itself there, pyarrow ends the process.
    """
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, int(group.total_byte_size))))


def _is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text, bytes that may be text, or all null."""
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    checks = (
        pa.types.is_null,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(check(kind) for check in checks) or kind in (pa.string_view(), pa.binary_view())


def _may_be_ids(kind: pa.DataType) -> bool:
    """Whether cells of this type are text or UUIDs, or numbers, of which whole ones are ids."""
    checks = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(check(kind) for check in checks) or kind == pa.uuid()


def _value(cell: pa.Scalar) -> Any:
    """The cell as a Python value, bytes as text; the exception when it is none, which Parquet lets happen."""
    try:
        value = cell.as_py()
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except (ValueError, OverflowError, pa.ArrowException) as error:  # invalid UTF-8, a date of no calendar
        return error
