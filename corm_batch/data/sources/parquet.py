"""Parquet files as documents: one split a row group, only the needed columns read. Knows nothing of what is asked."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.cells import may_be_ids, may_be_text
from corm_batch.data.columns import Place, folder_columns, listed, place_in
from corm_batch.data.document import Document
from corm_batch.data.filesystem import open_file
from corm_batch.data.kinds import python_value
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.tables import TableSource
from corm_batch.errors import ColumnsError

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 32, 64 << 20  # a row group of gigabytes then takes a few times as much, and a page
_READ_BYTES = 4 << 20


class ParquetSource(TableSource, name="parquet"):
    """Rows of Parquet files, one document a row."""

    suffixes = (".parquet", ".pq")

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """Row groups that hold rows, by position; reads the file's footer alone."""
        with open_file(uri) as file:
            parquet = pq.ParquetFile(file)
            counts = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
            kinds = dict[str, pa.DataType]()
            if any(counts):
                places = self._check_columns(uri, parquet.schema_arrow, columns)
                kinds = {name: place.kind if (place := places[name]) else pa.string() for name in columns}
            return [Split(uri, index, num_rows, kinds=kinds) for index, num_rows in enumerate(counts) if num_rows]

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of one row group, a few rows in memory at a time."""
        with open_file(split.uri) as file:
            parquet = pq.ParquetFile(file, buffer_size=_READ_BYTES, page_checksum_verification=True)
            places = self._check_columns(split.uri, parquet.schema_arrow, [*columns, *carried])
            folders, own = folder_columns(split.uri), parquet.schema_arrow.names
            held = list(dict.fromkeys(place.column for place in places.values() if place))
            paths = list(dict.fromkeys(place.path for place in places.values() if place))
            row, rows_at_once = 0, _rows_at_once(parquet.metadata.row_group(split.index))
            for batch in parquet.iter_batches(rows_at_once, row_groups=[split.index], columns=paths):
                cells = zip(*(batch.column(name) for name in held), strict=True) if held else [()] * batch.num_rows
                for one in cells:
                    found = dict(zip(held, map(python_value, one), strict=True))
                    values = {
                        name: place.value_in(found, name) if place else folders[name] for name, place in places.items()
                    }
                    yield self.document(values, columns, f"{split.uri}#{split.index}:{row}", carried, own)
                    row += 1

    def _check_columns(self, uri: str, schema: pa.Schema, columns: Sequence[str]) -> dict[str, Place | None]:
        """Where each column to read is, None for one of its folders; a file that lacks one, or text, is refused."""
        names, folders = self.wanted(columns, schema.names), folder_columns(uri)
        places = {name: _place(uri, schema, name, {} if name == self.text_column else folders) for name in names}
        if (text := places[self.text_column]) and not may_be_text(text.kind):
            what = f"column {self.text_column!r} (text_column) must hold text, lists of texts or a chat's messages"
            fields = f" (a field in it is {self.text_column}.NAME)" if pa.types.is_struct(text.kind) else ""
            raise ColumnsError(uri, f"{what}, not {text.kind}{fields}")
        id_column = self.id_in(schema.names)
        doc_id = places[id_column] if id_column is not None else None
        if doc_id and not may_be_ids(doc_id.kind):
            allowed = "text, whole numbers or UUIDs"
            raise ColumnsError(uri, f"column {id_column!r} (id_column) must hold {allowed}, not {doc_id.kind}")
        return places


def _place(uri: str, schema: pa.Schema, name: str, folders: Container[str]) -> Place | None:
    """Where a column of a file is; None where `folders`, as may say it, do."""
    try:
        return place_in(schema, name)
    except KeyError:
        if name in folders and name not in schema.names:
            return None
        found = [f"{listed(field.name)} ({field.type})" for field in schema]
        found += [f"{one} (its folder's)" for one in folder_columns(uri)]
        raise ColumnsError(uri, f"one column {name!r} is wanted; the file has: {', '.join(found) or 'none'}") from None


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    """Rows that fit `_BYTES_AT_ONCE` even if a dictionary makes each as large as all that the file holds of them.

    Nothing is asked of a single column: where a damaged footer contradicts itself there, pyarrow ends the process.
    """
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, int(group.total_byte_size))))
