"""Rows of a suite's files: Parquet, JSON Lines, CSV or plain text, alone, in a folder or by a glob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.cells import is_no_utf8
from corm_batch.data.columns import listed
from corm_batch.data.filesystem import list_files, reason
from corm_batch.data.sources.csv import CsvSource
from corm_batch.data.sources.jsonl import lines_of, parsed
from corm_batch.data.sources.packed import PACKED, unpacked
from corm_batch.errors import SourceError

Values = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Row:
    """One row: its file, where it stands in it, and its values by column."""

    file: str
    number: int
    values: Values

    @property
    def origin(self) -> str:
        """What messages call it."""
        return f"{self.file}, row {self.number}"

    def text(self, column: str) -> str:
        """A value that has to be text.

        Raises:
            SourceError: it is not.
        """
        value = self.values[column]
        if not isinstance(value, str):
            raise SourceError(f"{self.origin}: {column}: expected text, got {type(value).__name__}")
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """A value that has to be a text, a number or a list of them, at least one that says something.

        Raises:
            SourceError: it is something else.
        """
        value = self.values[column]
        values = [one for one in (value if isinstance(value, list | tuple) else [value]) if says_something(one)]
        if not values or any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in values):
            raise SourceError(f"{self.origin}: {column}: expected text or a list of texts, got {str(value)[:80]!r}")
        whole = (int(one) if isinstance(one, float) and one.is_integer() else one for one in values)
        return tuple(map(str, whole))


def says_something(value: Any) -> bool:
    """Whether a right answer is one: no null, no blank text, which every text would contain, and no NaN, which is how
    some write a null."""
    if isinstance(value, list | tuple):
        return any(map(says_something, value))
    return value is not None and value == value and not (isinstance(value, str) and not value.strip())


def read_rows(uri: str, columns: Sequence[str]) -> Iterator[Row]:
    """The rows at a place, local or s3://, file after file by name; further columns come along.

    Raises:
        SourceError: no file there, one that cannot be read, or a row without one of the columns.
    """
    files = list_files(uri, [f"{kind}{packed}" for kind in _READERS for packed in PACKED])
    if not files:
        raise SourceError(f"{uri}: no file found there; read are: {', '.join(_READERS)}, also with .gz or .zst")
    for file in files:
        for number, values in enumerate(_read(file, columns)):
            if isinstance(values, str):
                raise SourceError(f"{file}, row {number}: {values}")
            if is_no_utf8(values):
                raise SourceError(f"{file}, row {number}: it holds invalid UTF-8, as text of another encoding does")
            if missing := [column for column in columns if column not in values]:
                raise SourceError(
                    f"{file}, row {number}: no column {', '.join(missing)}; there are: {', '.join(map(listed, values))}"
                )
            yield Row(file, number, values)


def first_of_each(rows: Iterable[Row], key: Callable[[Row], Key], count: int) -> Iterator[tuple[Key, Row]]:
    """The first `count` rows of each key, which is asked of every row, with that key."""
    drawn: Counter[Key] = Counter()
    for row in rows:
        of_row = key(row)
        drawn[of_row] += 1
        if drawn[of_row] <= count:
            yield of_row, row


def _read(file: str, columns: Sequence[str]) -> Iterator[Values | str]:
    """The rows of one file, or what is wrong with one."""
    name = file.removesuffix(".gz").removesuffix(".zst").lower()
    reader = next((reader for suffix, reader in _READERS.items() if name.endswith(suffix)), None)
    if reader is None:
        raise SourceError(f"{file}: a file of another kind; read are: {', '.join(_READERS)}, also with .gz or .zst")
    try:
        yield from reader(file, columns)
    except SourceError:
        raise
    except Exception as error:  # of whoever unpacks or decodes it
        raise SourceError(f"{file}: cannot be read: {reason(error)}") from error


def _parquet(file: str, columns: Sequence[str]) -> Iterator[Values]:
    with unpacked(file) as plain:
        parquet = pq.ParquetFile(pa.BufferReader(plain.read()))
    _check_once(file, parquet.schema_arrow.names, columns)
    for batch in parquet.iter_batches():
        yield from batch.to_pylist()


def _json_lines(file: str, columns: Sequence[str]) -> Iterator[Values | str]:
    with lines_of(file) as lines:
        yield from map(parsed, lines)


def _csv(file: str, columns: Sequence[str]) -> Iterator[Values | str]:
    """All of it text: 007, 1.10 and yes are what they are."""
    with CsvSource(uri=file).rows(file, columns) as (names, rows):
        _check_once(file, names, columns)
        for fields in rows:
            yield fields if isinstance(fields, str) else dict(zip(names, fields, strict=True))


def _text(file: str, columns: Sequence[str]) -> Iterator[Values]:
    with unpacked(file) as plain:
        yield {"text": plain.read().decode("utf-8-sig")}


def _check_once(file: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse a file that has a column twice, of which one would be dropped without a word."""
    if twice := [column for column in columns if names.count(column) > 1]:
        raise SourceError(f"{file}: column {twice[0]!r} is there twice; there are: {', '.join(map(listed, names))}")


_READERS: dict[str, Callable[[str, Sequence[str]], Iterator[Values | str]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".txt": _text,
}
