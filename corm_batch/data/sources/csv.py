"""CSV files as documents, plain or compressed: one split a file, one document a row. Knows nothing of tasks.

All values are text as they stand, for 007 is not 7; what is empty is an empty text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pydantic import Field

from corm_batch.data.columns import folder_columns, listed
from corm_batch.data.document import Document
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.foreign_json import encoding_problem
from corm_batch.data.sources.packed import PACKED, unpacked
from corm_batch.data.sources.tables import TableSource, unusable
from corm_batch.data.uri import name_of
from corm_batch.errors import ColumnsError, FileError

_DELIMITERS = ",", "\t", ";", "|"
_LONGEST_FIELD = 1 << 28  # characters; a quote that is never closed would else take the whole file
csv.field_size_limit(_LONGEST_FIELD)
_EXCEL_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a first line that spreadsheets read, and write


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
        with self.rows(uri, columns) as (names, rows):
            if next(rows, None) is None:
                return []
            self._check_columns(uri, names, columns)
        return [Split(uri, 0, kinds=dict.fromkeys(columns, pa.string()))]

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of one file; a row of stray quotes, or of more or fewer fields than names, has a problem.

        Raises:
            FileError: the file ends within quotes; which row opens them.
        """
        folders = folder_columns(split.uri)
        with self.rows(split.uri, [*columns, *carried]) as (names, rows):
            self._check_columns(split.uri, names, [*columns, *carried])
            for number, fields in enumerate(rows):
                origin = f"{split.uri}#{number}"
                if isinstance(fields, str):
                    yield unusable(origin, fields)
                else:
                    row: Mapping[str, Any] = {**folders, **dict(zip(names, fields, strict=True))}
                    yield self.document(row, columns, origin, carried, names)

    def _check_columns(self, uri: str, names: Sequence[str], columns: Sequence[str]) -> None:
        """Refuse a file that lacks a column, or has it twice."""
        folders = folder_columns(uri)
        for name in self.wanted(columns, names):
            of_folder = name in folders and name not in names and name != self.text_column
            if names.count(name) != 1 and not of_folder:
                found = ", ".join([*map(listed, names), *(f"{one} (its folder's)" for one in folders)])
                raise ColumnsError(uri, f"one column {name!r} is wanted; the file has: {found}")

    @contextmanager
    def rows(self, uri: str, columns: Sequence[str]) -> Iterator[tuple[list[str], Iterator[list[str] | str]]]:
        """The names in the first row of a file, and of all other rows that are not blank the fields, or what is wrong.

        Bytes that are no UTF-8 are halves of surrogate pairs, which are a problem of their rows.

        Raises:
            FileError: it holds text in another encoding, or not even the beginning of a compressed file; the quotes of
                its names are wrong.
        """
        with unpacked(uri) as plain:
            head = plain.peek(64)[:64]
            if problem := encoding_problem(uri, head):
                raise FileError(uri, problem)
            lines = _Lines(io.TextIOWrapper(plain, "utf-8-sig", errors="surrogateescape", newline=""))
            line = lines.first_with_text()
            delimiter = self.delimiter
            if said := _EXCEL_DELIMITER.fullmatch(line):
                delimiter = delimiter or said[1]
                line = lines.first_with_text()
            lines.put_back(line)
            delimiter = delimiter or self._parting(line, columns, name_of(uri))
            rows = _each(uri, csv.reader(lines, delimiter=delimiter, strict=True), lines, delimiter)
            names = next(rows, [])
            if isinstance(names, str):
                raise FileError(uri, f"the names of its columns cannot be read: {names}")
            yield names, (_for_each(names, fields) for fields in rows if fields)

    def _parting(self, line: str, columns: Sequence[str], file: str) -> str:
        """The delimiter that makes most of the columns asked for of the first line; of equal ones the usual one."""

        def found(delimiter: str) -> int:
            names = next(csv.reader([line], delimiter=delimiter), [])
            return len({*self.wanted(columns, names)} & {*names})

        usual = "\t" if re.search(r"\.tsv(\.\w+)?$", file) else ","
        return max(usual, *_DELIMITERS, key=found)


def _for_each(names: list[str], fields: list[str] | str) -> list[str] | str:
    """The fields of a row, or what is wrong with it, where there is not one for each of the names."""
    if isinstance(fields, str) or len(fields) == len(names):
        return fields
    return f"the row has {len(fields)} fields, and there are {len(names)} columns"


class _Lines(Iterator[str]):
    """The lines of a file, and what is to be known of those that a row has taken.

    Attributes:
        number: of the last line that was read, 1 first.
        last: that line.
        quotes: how many there are in the lines since it was set to 0.
        ended: whether there is no further line.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._kept: list[str] = []
        self.number, self.last, self.quotes, self.ended = 0, "", 0, False

    def __next__(self) -> str:
        line = self._kept.pop() if self._kept else self._text.readline()
        if not line:
            self.ended = True
            raise StopIteration
        self.number, self.last, self.quotes = self.number + 1, line, self.quotes + line.count('"')
        return line

    def first_with_text(self) -> str:
        """The next line that is not blank; empty where there is none."""
        return next((line for line in self if line.strip()), "")

    def put_back(self, line: str) -> None:
        """Have a line be read once more."""
        if line:
            self._kept.append(line)
            self.number -= 1


def _each(uri: str, rows: Iterator[list[str]], lines: _Lines, delimiter: str) -> Iterator[list[str] | str]:
    """The fields of each row, or what is wrong with one whose quotes are; the rows after that one are read.

    Such a row ends with a line after which all quotes are paired, or whose last one ends a field; else what follows
    is text of it yet, and would be taken for rows. Where the file ends within quotes, all that follows them may be text
    of that row: nothing of it is read.

    Raises:
        FileError: the file ends within quotes.
    """
    closing = re.compile(rf'"\s*({re.escape(delimiter)}[^"]*)?$')
    while True:
        lines.quotes, first = 0, lines.number + 1
        try:
            fields: list[str] | str = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.ended:
                where = f"the row that begins in line {first} opens a quote that nothing closes up to the file's end"
                raise FileError(uri, f"{where}, line {lines.number}: nothing from line {first} on is read") from error
            while lines.quotes % 2 and not closing.search(lines.last) and next(lines, None) is not None:
                pass
            where = f"line {first}" if lines.number == first else f"lines {first} to {lines.number}"
            fields = f'its quotes are wrong in {where} of the file ({error}); a quote within a field is written ""'
        yield fields
