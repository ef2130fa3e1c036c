"""CSV files as documents, plain or compressed: one split a file, one document a row. Knows nothing of tasks.

All values are text as they stand, for 007 is not 7; what is empty is an empty text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pydantic import Field

from corm_batch.data.columns import folder_columns
from corm_batch.data.document import Document
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.foreign_json import encoding_problem
from corm_batch.data.sources.packed import PACKED, unpacked
from corm_batch.data.sources.tables import TableSource
from corm_batch.errors import ColumnsError, FileError

_DELIMITERS = ",", "\t", ";", "|"
_LONGEST_FIELD = 1 << 28  # characters; a quote that is never closed would else take the whole file
csv.field_size_limit(_LONGEST_FIELD)


class CsvSource(TableSource, name="csv"):
    """Rows of CSV and TSV files below a line of names (.csv, .tsv; also .gz or .zst), one document a row."""

    suffixes = tuple(f".{name}{packed}" for name in ("csv", "tsv") for packed in PACKED)

    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="between the fields of a row; default: comma, tab, ; or |, whichever parts the columns' names",
    )

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The file as a split when it holds rows; reads its first rows."""
        with self._rows(uri, columns) as (names, rows):
            if next(rows, None) is None:
                return []
            self._check_columns(uri, names, columns)
        return [Split(uri, 0, kinds=dict.fromkeys(columns, pa.string()))]

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of one file; a row of another number of fields than there are names is one with a problem."""
        folders = folder_columns(split.uri)
        with self._rows(split.uri, [*columns, *carried]) as (names, rows):
            self._check_columns(split.uri, names, [*columns, *carried])
            for number, fields in enumerate(rows):
                origin = f"{split.uri}#{number}"
                if len(fields) == len(names):
                    row: Mapping[str, Any] = {**folders, **dict(zip(names, fields, strict=True))}
                    yield self.document(row, columns, origin, carried)
                else:
                    problem = f"{origin}: the row has {len(fields)} fields, and there are {len(names)} columns"
                    yield Document(doc_id=origin, text=None, problem=problem, origin=origin)

    def _check_columns(self, uri: str, names: Sequence[str], columns: Sequence[str]) -> None:
        """Refuse a file that lacks a column, or has it twice."""
        folders = folder_columns(uri)
        for name in self.wanted(columns, [*names, *folders]):
            if names.count(name) != 1 and (name in names or name not in folders):
                found = ", ".join([*names, *(f"{one} (its folder's)" for one in folders)])
                raise ColumnsError(uri, f"one column {name!r} is wanted; the file has: {found}")

    @contextmanager
    def _rows(self, uri: str, columns: Sequence[str]) -> Iterator[tuple[list[str], Iterator[list[str]]]]:
        """The names in the first row of a file, and the fields of all other rows that are not blank.

        Bytes that are no UTF-8 are halves of surrogate pairs, which are a problem of their rows.

        Raises:
            FileError: it holds text in another encoding, or not even the beginning of a compressed file.
        """
        with unpacked(uri) as plain:
            head = plain.peek(64)[:64]
            if problem := encoding_problem(uri, head):
                raise FileError(uri, problem)
            text = io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline="")
            line = text.readline()
            delimiter = self.delimiter or self._parting(line, columns)
            rows = csv.reader(_again(line, text), delimiter=delimiter, strict=True)
            yield next(rows, []), filter(None, rows)

    def _parting(self, line: str, columns: Sequence[str]) -> str:
        """The delimiter that makes most of the columns asked for of the first line; of equal ones the usual one."""

        def found(delimiter: str) -> int:
            names = next(csv.reader([line], delimiter=delimiter), [])
            return len({*self.wanted(columns, names)} & {*names})

        return max(_DELIMITERS, key=found)


def _again(line: str, rest: io.TextIOWrapper) -> Iterator[str]:
    """All lines of a file of which the first has been read."""
    yield line
    yield from rest
