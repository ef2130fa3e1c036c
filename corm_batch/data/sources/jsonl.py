"""JSON Lines files as documents, plain or compressed: one split a file, one document a line. Knows nothing of tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from corm_batch.data.columns import folder_columns, is_in, listed, value_in
from corm_batch.data.document import Document
from corm_batch.data.kinds import kind_of
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.foreign_json import encoding_problem, layout_problem
from corm_batch.data.sources.packed import PACKED, unpacked
from corm_batch.data.sources.tables import TableSource, carried_value, unusable
from corm_batch.errors import ColumnsError, FileError
from corm_batch.named_once import named_once
from corm_batch.registry import shown

_LINES_LOOKED_AT = 100
_BOM = b"\xef\xbb\xbf"


class JsonlSource(TableSource, name="jsonl"):
    """Lines of JSON Lines files (.jsonl, .ndjson, .json; also .gz or .zst), one JSON object and document a line."""

    suffixes = tuple(f".{name}{packed}" for name in ("jsonl", "ndjson", "json") for packed in PACKED)

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The file as a split when it holds lines. A column that no line of its beginning has is the file's error.

        A file is read on until a line holds an object: what is no JSON Lines at all is named once, not once a line.
        """
        head: list[bytes] = []
        found: set[str] = set()
        asked = [self.text_column, *filter(None, [self.id_column]), *columns]
        folders, rows = folder_columns(uri), list[dict[str, Any]]()
        led_to = {*folders} - {self.text_column}  # names asked for that the file's own columns are not
        num_lines = 0
        try:
            with lines_of(uri) as lines:
                for num_lines, line in enumerate(lines, 1):
                    if not found and len(head) < _LINES_LOOKED_AT:
                        head.append(line)
                    if isinstance(row := parsed(line), dict):
                        found.update(row)
                        rows.append({name: carried_value(value_in({**folders, **row}, name)) for name in columns})
                        led_to.update(name for name in asked if is_in(row, name))
                    if num_lines >= _LINES_LOOKED_AT and found:
                        break
        except Exception:
            if not found:
                raise  # else documents stand before the damage: reading will come to it
        if not head:
            return []
        if problem := layout_problem(uri, head):
            raise FileError(uri, problem)
        if not found:
            which = f"none of its {num_lines} lines has" if num_lines > 1 else "its only line does not have"
            raise FileError(uri, f"{which} a JSON object with columns: {parsed(head[0])}")
        if missing := [name for name in self.wanted(columns, found) if name not in found | led_to]:
            known = ", ".join(map(listed, sorted(found)))
            raise ColumnsError(uri, f"no line has a column {missing[0]!r}; there are: {known}")
        return [Split(uri, 0, kinds={name: kind_of([row[name] for row in rows]) for name in columns})]

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of one file; a line that is no JSON object, or lacks id or text, becomes one with a problem."""
        folders = folder_columns(split.uri)
        with lines_of(split.uri) as lines:
            for number, line in enumerate(lines):
                origin = f"{split.uri}#{number}"
                row = parsed(line)
                if isinstance(row, dict):
                    both = {**folders, **row}
                    values = {name: value_in(both, name) for name in self.wanted([*columns, *carried], row)}
                    values[self.text_column] = value_in(row, self.text_column)
                    yield self.document(values, columns, origin, carried, row)
                else:
                    yield unusable(origin, row)


@contextmanager
def lines_of(uri: str) -> Iterator[Iterator[bytes]]:
    """The lines of a file that are not blank, uncompressed, without byte order marks.

    Raises:
        FileError: it holds text in another encoding, or not even the beginning of a compressed file.
    """
    with unpacked(uri) as plain:
        if problem := encoding_problem(uri, plain.peek(64)[:64]):
            raise FileError(uri, problem)
        yield (line for line in (line.removeprefix(_BOM) for line in plain) if line.strip())


class _GivenTwice(BaseException):
    """This name stands twice in one object: no ValueError, which the decoder's own are."""


_DECODER = json.JSONDecoder(object_pairs_hook=partial(named_once, error=_GivenTwice))


def parsed(line: bytes) -> dict[str, Any] | str:
    """The line's JSON object, or why it is none; what is no UTF-8 is its value's problem, as halves of pairs."""
    try:
        row = _DECODER.decode(line.decode("utf-8", "surrogateescape"))
    except _GivenTwice as name:
        return f"the line gives {shown(str(name))} twice in one object, and nothing says which counts"
    except (ValueError, RecursionError) as error:
        return f"the line is no JSON ({error})"
    return row if isinstance(row, dict) else f"the line holds no JSON object but {type(row).__name__}"
