"""Intake: the documents of a source that are still to be answered, and the rows of those that cannot be.

Knows nothing of replicas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from corm_batch.data.document import Document
from corm_batch.data.sources.base import Source, Split
from corm_batch.output.ledger import Ledger, digest
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.tasks.base import Task


class Intake:
    """Reads a source once, split after split."""

    def __init__(
        self, source: Source, task: Task, splits: list[Split], ledger: Ledger, rows: RowBuilder, *, retry_failed: bool
    ) -> None:
        """What is in `splits` and not done according to `ledger`; failed is done unless `retry_failed`."""
        self._source = source
        self._columns = task.source_columns
        self._splits = splits
        self._ledger = ledger
        self._rows = rows
        self._done = ("ok",) if retry_failed else ("ok", "failed")
        self._seen: dict[bytes, int] = {}

    @property
    def total(self) -> int | None:
        """Rows in the source, when it can say."""
        counts = [split.num_rows for split in self._splits]
        return None if any(count < 0 for count in counts) else sum(counts)

    def __iter__(self) -> Iterator[Document | DocumentRow | Literal["ok", "failed"]]:
        """For each row of the source: a document to answer, its failed row, or how an earlier run has ended it.

        Raises:
            SourceError: a split cannot be read.
        """
        for split in self._splits:
            for document in self._source.read(split, self._columns):
                yield self._sort(document)

    def _sort(self, document: Document) -> Document | DocumentRow | Literal["ok", "failed"]:
        problem = document.problem
        if times := self._times_seen(document.doc_id):
            problem = (
                f"an earlier row has the id {document.doc_id!r} too; this one is {document.origin} and was not answered"
            )
            document = replace(document, doc_id=f"{document.doc_id}#duplicate-{times}")
        state = self._ledger.state(document)
        if state != "new" and state in self._done:
            return state
        return document if problem is None else self._rows.failed(document, "DocumentError", problem)

    def _times_seen(self, doc_id: str) -> int:
        """How often this id came before."""
        key = digest(doc_id)
        times = self._seen.get(key, 0)
        self._seen[key] = times + 1
        return times
