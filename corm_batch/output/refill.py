"""Refill: columns of the source that rows of earlier runs carry over, as the source has them now.

The part with such a row is written anew under its name, whole: answers, figures and what the part says of its run stay,
and a reader finds the one or the other. Knows nothing of who reads the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

import pyarrow as pa

from corm_batch.data.document import Document
from corm_batch.data.exploded import with_column
from corm_batch.data.filesystem import write_whole
from corm_batch.data.kinds import array_of, python_value, spelled
from corm_batch.data.parts import encode_part, read_part
from corm_batch.data.schema import RESULT_FIELDS, SOURCE_FILE, SOURCE_ROW
from corm_batch.errors import DamagedPartError
from corm_batch.output.lease import Lease

_MOST, _OF_A_DOCUMENT = 64 << 20, 1000  # bytes: of all documents that wait, and of one besides its columns
_PLACED = "carried_sha256", SOURCE_FILE.name, SOURCE_ROW.name
_OURS = tuple(field for field in RESULT_FIELDS if field.name in _PLACED)


class Refill:
    """Collects documents that are done and writes the parts with their rows anew, one part at a time.

    Attributes:
        damaged: one line for each part that cannot be read and was left as it is.
    """

    def __init__(self, carried: tuple[pa.Field, ...], lease: Lease, most: int = _MOST) -> None:
        """For rows that carry these columns over; of documents, about `most` bytes are held."""
        self._carried = carried
        self._lease = lease
        self._most = most
        self._waiting: dict[str, dict[str, Document]] = {}
        self._held: Counter[str] = Counter()  # bytes by part
        self._done = 0
        self.damaged: tuple[str, ...] = ()

    def add(self, document: Document, part: str) -> None:
        """Take a document whose newest row, or rows, are in `part`; where too many wait, write one part.

        Raises:
            LeaseError, SourceError, OutputError: as `commit`.
        """
        self._waiting.setdefault(part, {})[document.doc_id] = replace(document, text=None, columns={})
        self._held[part] += _OF_A_DOCUMENT + len(spelled(list(document.carried.values())) or "")
        if self._held.total() >= self._most:
            self.commit()

    def commit(self) -> bool:
        """Write the part of which most waits; whether anything did.

        Rows of runs that were limited to some documents, or answered failed ones again, lie all over the source: their
        parts are written once many are found.

        Raises:
            LeaseError: the output belongs to another driver by now.
            SourceError: the part cannot be fetched.
            OutputError: the part cannot be written; it is as it was.
        """
        if not self._waiting:
            return False
        part = max(self._held, key=self._held.__getitem__)
        self._lease.check()
        try:
            rows = read_part(part)
        except DamagedPartError as error:
            self.damaged += (str(error),)
        else:
            rows = _with_carried(rows, self._waiting[part], self._carried)
            write_whole(part, encode_part(rows, part.rpartition(".")[2]))
            self._done += len(self._waiting[part])
        del self._waiting[part], self._held[part]
        return True

    @property
    def text(self) -> str:
        """What was done, and is left where that was not all, in one line; empty where there is nothing of either."""
        left = sum(map(len, self._waiting.values()))
        if not self._done and not left:
            return ""
        names = ", ".join(field.name for field in self._carried)
        documents = "1 document" if self._done == 1 else f"{self._done} documents"
        rest = f"; {left} more wait for the next run" if left else ""
        return f"{documents} answered before: {names} (output.columns) filled in as the source has it now{rest}"


def _with_carried(rows: pa.Table, documents: Mapping[str, Document], carried: Iterable[pa.Field]) -> pa.Table:
    """The rows of a part, with what those of `documents` carry over now."""
    found = [documents.get(doc_id) for doc_id in rows["doc_id"].to_pylist()]
    for field in (*_OURS, *carried):
        here = field.name in rows.column_names
        before = map(python_value, rows[field.name]) if here else repeat(None)
        values = [old if one is None else _value(one, field.name) for one, old in zip(found, before, strict=False)]
        column = array_of(values, field.type)
        rows = (
            with_column(rows, field.name, column) if here else rows.append_column(field.with_type(column.type), column)
        )
    return rows


def _value(document: Document, name: str) -> Any:
    """What its row has in a column."""
    own = {_PLACED[0]: document.carried_sha256, SOURCE_FILE.name: document.file, SOURCE_ROW.name: document.row}
    return own[name] if name in own else document.carried.get(name)
