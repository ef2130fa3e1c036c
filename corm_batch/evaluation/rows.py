"""Rows of a suite's files: Parquet, JSON Lines, CSV or plain text, alone, in a folder or by a glob."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from corm_batch.data.columns import listed
from corm_batch.data.filesystem import list_files, read_whole
from corm_batch.data.sources.zstd_file import ZstdFile
from corm_batch.errors import SourceError

Values = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
_PACKED = {".gz": "gzip", ".zst": "zstd"}


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
    files = list_files(uri, [f"{kind}{packed}" for kind in _READERS for packed in ("", *_PACKED)])
    if not files:
        raise SourceError(f"{uri}: no file found there; read are: {', '.join(_READERS)}, also with .gz or .zst")
    for file in files:
        for number, values in enumerate(_read(file)):
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


def _read(file: str) -> Iterator[Values]:
    """The rows of one file."""
    packed = next((kind for suffix, kind in _PACKED.items() if file.endswith(suffix)), None)
    name = file.rpartition(".")[0] if packed else file
    reader = next((reader for suffix, reader in _READERS.items() if name.lower().endswith(suffix)), None)
    if reader is None:
        raise SourceError(f"{file}: a file of another kind; read are: {', '.join(_READERS)}, also with .gz or .zst")
    try:
        content = read_whole(file)
        if packed == "zstd":
            content = ZstdFile(io.BytesIO(content)).readall()
        elif packed:
            with pa.CompressedInputStream(pa.BufferReader(content), packed) as stream:
                content = stream.read()
        yield from reader(content)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise SourceError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error


def _parquet(content: bytes) -> Iterator[Values]:
    for batch in pq.ParquetFile(pa.BufferReader(content)).iter_batches():
        yield from batch.to_pylist()


def _json_lines(content: bytes) -> Iterator[Values]:
    for number, line in enumerate(content.decode("utf-8-sig").split("\n")):  # texts may hold other line breaks
        if line.strip():
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError(f"line {number + 1} holds no JSON object but {type(value).__name__}")
            yield value


def _csv(content: bytes) -> Iterator[Values]:
    """All of it text: 007, 1.10 and yes are what they are."""
    multiline = pa.csv.ParseOptions(newlines_in_values=True)
    names = pa.csv.open_csv(io.BytesIO(content), parse_options=multiline).schema.names
    as_text = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    yield from pa.csv.read_csv(io.BytesIO(content), parse_options=multiline, convert_options=as_text).to_pylist()


def _text(content: bytes) -> Iterator[Values]:
    yield {"text": content.decode("utf-8-sig")}


_READERS: dict[str, Callable[[bytes], Iterator[Values]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".txt": _text,
}
