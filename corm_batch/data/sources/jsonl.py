"""JSON Lines files as documents, plain or compressed: one split a file, one document a line. Knows nothing of tasks."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from corm_batch.data.document import Document
from corm_batch.data.filesystem import open_file, reading
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.files import FileSource
from corm_batch.errors import SourceError

_READ_BYTES = 8 << 20
_LINES_LOOKED_AT = 100
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class JsonlSource(FileSource, name="jsonl"):
    """Lines of JSON Lines files (.jsonl, .jsonl.gz, .jsonl.zst), one JSON object and document a line."""

    suffixes = (".jsonl", ".jsonl.gz", ".jsonl.zst")

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """Files, by name. A column no line of a file's beginning has is an error; a line without it is a row's."""
        return self.splits_of_files(lambda uri: self._look(uri, columns))

    def _look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The file as a split when it holds lines."""
        with _lines(uri) as lines:
            rows = [_parse(line) for line in itertools.islice(lines, _LINES_LOOKED_AT)]
        found = {name for row in rows if isinstance(row, dict) for name in row}
        missing = [name for name in self.wanted(columns) if name not in found]
        if found and missing:
            raise SourceError(f"{uri}: no line has a column {missing[0]!r}; there are: {', '.join(sorted(found))}")
        return [Split(uri, 0)] if rows else []

    def read(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """The documents of one file; a line that is no JSON object, or lacks id or text, becomes one with a problem."""
        with _lines(split.uri) as lines:
            for number, line in enumerate(lines):
                origin = f"{split.uri}#{number}"
                row = _parse(line)
                if isinstance(row, dict):
                    values = {name: row.get(name) for name in self.wanted(columns)}
                    yield self.document(values, columns, origin)
                else:
                    yield Document(doc_id=origin, text=None, problem=f"{origin}: {row}", origin=origin)


@contextmanager
def _lines(uri: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file that are not blank, uncompressed."""
    compression = next((name for suffix, name in _COMPRESSIONS.items() if uri.lower().endswith(suffix)), None)
    with reading(uri), open_file(uri) as file:
        buffered = io.BufferedReader(file, _READ_BYTES)  # type: ignore[type-var]
        plain = pa.CompressedInputStream(buffered, compression) if compression else buffered
        yield (line for line in io.BufferedReader(plain, _READ_BYTES) if line.strip())


def _parse(line: bytes) -> dict[str, Any] | str:
    """The line's JSON object, or why it is none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"the line holds invalid UTF-8 ({error.reason} at byte {error.start})"
    except (ValueError, RecursionError) as error:
        return f"the line is no JSON ({error})"
    return row if isinstance(row, dict) else f"the line holds no JSON object but {type(row).__name__}"
