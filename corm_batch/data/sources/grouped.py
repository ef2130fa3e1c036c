"""Grouped: the rows of another source by the value of a column, each group one document. It is in no registry.

A group is as old as its first row, its members lie as in the source, and its text is theirs, one below the other: any
task can be asked about it, and one that is too long is answered as every long document is. Groups are made when all
rows are read; meanwhile they lie in a file, so that memory holds one group at a time.

A row without a usable key, or that cannot be used itself, is a document of its own that says so.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from corm_batch.data.cells import as_text, usable_id
from corm_batch.data.document import Document
from corm_batch.data.sources.base import Refinement, Split, rows_before
from corm_batch.errors import FileError

MEMBERS, MEMBER_IDS = "members", "member_ids"
_OWN = {MEMBERS: pa.int64(), MEMBER_IDS: pa.list_(pa.string())}


class Grouped(Refinement):
    """A source whose `group_by` is not None, filtered where it says so.

    Columns: the key's, as it is; `members`, how many rows a group has, and `member_ids`; every other one a list.
    """

    by: str
    separator: str

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """All groups as one split, beside the files that cannot be read.

        Raises:
            SourceError, SpecError: those of the source.
        """
        found = self.of.splits(self._wanted(columns))
        if not any(split.num_rows for split in found):
            return found
        told = [split.kinds for split in found if split.kinds]
        kinds = {
            name: _OWN.get(name) or (kind if name == self.by else pa.list_(kind))
            for name in columns
            for kind in [next((of_it[name] for of_it in told if name in of_it), pa.string())]
        }
        return [*(split for split in found if split.error is not None), Split(self.place, 0, kinds=kinds)]

    def read_carrying(self, split: Split, columns: Sequence[str], carried: Sequence[str]) -> Iterator[Document]:
        """The groups, in the order of their first rows, below what is no row of a group.

        Raises:
            FileError: a file could not be read, or not to its end; after the groups of all others.
        """
        if split.error is not None:
            raise FileError(split.uri, split.error)
        broken: list[FileError] = []
        with TemporaryDirectory(prefix="corm-batch-") as folder, closing(_Members(f"{folder}/rows")) as rows:
            for number, document in enumerate(self._rows(columns, carried, broken)):
                if document.left_out is not None:
                    yield document
                elif (problem := self._add(rows, document)) is not None:
                    origin = f"{split.uri}#{number}"
                    yield Document(origin, None, problem=f"{origin}: {problem}", origin=origin)
            for key, members in rows.groups():
                yield self._document(key, members, columns, carried)
        if broken:
            others = f" (and {len(broken) - 1} other files cannot be read to their end)" if broken[1:] else ""
            raise FileError(broken[0].uri, f"{broken[0].reason}: what groups have of it is missing{others}")

    def _wanted(self, columns: Sequence[str]) -> list[str]:
        """Columns of a row."""
        return [*dict.fromkeys([self.by, *(name for name in columns if name not in _OWN)])]

    def _rows(self, columns: Sequence[str], carried: Sequence[str], broken: list[FileError]) -> Iterator[Document]:
        """Every row of the source; files that turn out to be broken are put into `broken`."""
        own, kept = self._wanted(columns), self._wanted(carried)  # the key in both: what is carried is made readable
        splits = self.of.splits(self._wanted([*columns, *carried]))
        for split, before in zip(splits, rows_before(splits), strict=True):
            if split.error is not None:
                continue
            try:
                for number, document in enumerate(self.of.read_carrying(split, own, kept)):
                    yield document.at(split.uri, None if before is None else before + number)
            except FileError as error:
                broken.append(error)

    def _add(self, rows: _Members, document: Document) -> str | None:
        """Take a row to its group; why it is in none, where it is not."""
        about = f"the row {document.doc_id!r} is in no group"
        if document.problem is not None:
            return f"{about}: {document.problem}"
        value = document.carried[self.by]
        key = str(value).lower() if isinstance(value, bool) else usable_id(as_text(value))
        if key is None or not key.strip():
            what = "null" if value is None else f"{type(value).__name__} {repr(value)[:100]}"
            return f"{about}: its column {self.by!r} (source.group_by) holds no text or whole number but {what}"
        rows.add(key, document)
        return None

    def _document(
        self, key: str, members: Sequence[Document], columns: Sequence[str], carried: Sequence[str]
    ) -> Document:
        """A group."""
        own = {MEMBERS: len(members), MEMBER_IDS: [one.doc_id for one in members]}

        def value(name: str, carry: bool) -> Any:
            if name in own:
                return own[name]
            values = [(one.carried if carry else one.columns)[name] for one in members]
            return values[0] if name == self.by else values

        return Document(
            doc_id=key,
            text=self.separator.join(one.text or "" for one in members),
            columns={name: value(name, carry=False) for name in columns},
            carried={name: value(name, carry=True) for name in carried},
            origin=f"{members[0].origin} and {len(members) - 1} others" if members[1:] else members[0].origin,
            file=members[0].file,
            row=members[0].row,
        )


class _Members:
    """Rows on the disk, by their groups."""

    def __init__(self, path: str) -> None:
        self._base = sqlite3.connect(path)
        self._base.execute("PRAGMA journal_mode = OFF")  # nobody reads what a process that ended had written
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("CREATE TABLE rows (rank INTEGER, key TEXT, row BLOB)")
        self._ranks: dict[str, int] = {}

    def add(self, key: str, document: Document) -> None:
        """Take a row, which was read after all others that were taken."""
        rank = self._ranks.setdefault(key, len(self._ranks))
        self._base.execute("INSERT INTO rows VALUES (?, ?, ?)", (rank, key, pickle.dumps(document)))

    def groups(self) -> Iterator[tuple[str, list[Document]]]:
        """Each key with its rows, in the order in which they were taken."""
        found = self._base.execute("SELECT key, row FROM rows ORDER BY rank, rowid")
        for key, rows in groupby(found, key=lambda one: one[0]):
            yield str(key), [pickle.loads(row) for _, row in rows]

    def close(self) -> None:
        """Drop them."""
        self._base.close()
