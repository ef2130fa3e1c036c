"""Intake: the documents of a source that are still to be answered, and the rows of those that cannot be.

A row that has no id of its own goes by the place where it stands, `file#row`. That can be no other row's id: an id of
this form that names a place in a file of the source counts as none. Its failed row is gone once a file was read to
the end without it: the line was completed, the id filled in. Knows nothing of replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from corm_batch.data.document import Document, digest
from corm_batch.data.selection import Selection
from corm_batch.data.sources.base import Source, Split, rows_before
from corm_batch.errors import FileError
from corm_batch.output.ledger import Ledger
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.tasks.base import Task


@dataclass(frozen=True)
class Outdated:
    """A document that an earlier run has ended so, whose row in `part` has other columns of the source than the source
    has now."""

    document: Document
    part: str
    state: Literal["ok", "failed"]


Item = Document | DocumentRow | Outdated | Literal["ok", "failed", "left out"]
"""What becomes of a row."""


@dataclass(frozen=True)
class FailedFile:
    """A file of the source that cannot be read, or not to its end, and why."""

    uri: str
    error: str


class DocumentIds:
    """The ids of the rows read so far: each id is one row's, and the others go by their places."""

    def __init__(self, splits: Iterable[Split]) -> None:
        """For the rows of `splits`."""
        self._files = {split.uri for split in splits}
        self._seen: set[bytes] = set()

    def settle(self, document: Document, split: Split, number: int) -> tuple[Document, str | None]:
        """Row `number` of `split` under an id that no other row has, and why it cannot be answered, if so."""
        place = _place(document, split, number)
        if document.doc_id != place and (taken := self._taken(document.doc_id)):
            return replace(document, doc_id=place), f"{taken}; this one is {place} and was not answered"
        return document, document.problem

    def clear(self) -> None:
        """Let go of all ids, where no more rows are read."""
        self._seen.clear()

    def _taken(self, doc_id: str) -> str | None:
        """Why a row cannot have this id; None when it can, and has it from now on."""
        if doc_id.rpartition("#")[0] in self._files:
            return f"the id {doc_id!r} names the place of another row"
        key = digest(doc_id)
        if key in self._seen:
            return f"an earlier row has the id {doc_id!r} too"
        self._seen.add(key)
        return None


class Intake:
    """Reads a source once, split after split; a file that is broken costs no other file's documents."""

    def __init__(
        self,
        source: Source,
        task: Task,
        splits: list[Split],
        ledger: Ledger,
        rows: RowBuilder,
        *,
        retry_failed: bool,
        selection: Selection | None = None,
        on_document: Callable[[str], None] | None = None,
    ) -> None:
        """What is in `splits` and not done according to `ledger`; failed is done unless `retry_failed`.

        `on_document` is called with the id of every row that is looked at.

        Of a `selection` nothing else is read, and no failed row of an earlier run counts as gone.
        """
        self._source = source
        self._columns = task.columns_read
        self._carried = [field.name for field in rows.carried]
        self._splits = splits
        self._before = rows_before(splits)
        self._ledger = ledger
        self._rows = rows
        self._done = ("ok",) if retry_failed else ("ok", "failed")
        self._ids = DocumentIds(splits)
        self._placed: set[str] = set()
        self._failed: dict[str, FailedFile] = {}
        self._left_out: Counter[str] = Counter()
        self._selection = selection
        self._on_document = on_document
        self._drawn = None if selection is None else selection.drawn(source, splits, self._columns)

    @property
    def total(self) -> int | None:
        """Rows to look at, when the source can say."""
        if self._drawn is not None:
            return sum(map(len, self._drawn))
        counts = [split.num_rows for split in self._splits]
        total = None if any(count < 0 for count in counts) else sum(counts)
        if self._selection is None:
            return total
        return None if self._source.leaves_out else self._selection.total(total)

    @property
    def selection(self) -> str:
        """What it is limited to, in words; empty where it is not."""
        return "" if self._selection is None else self._selection.text

    @property
    def failed_files(self) -> tuple[FailedFile, ...]:
        """Files that turned out to be broken so far, in the order of reading, each once."""
        return tuple(self._failed.values())

    @property
    def left_out(self) -> tuple[tuple[str, int], ...]:
        """Why rows are none of the source's documents, and how many so far, the most first."""
        return tuple(self._left_out.most_common())

    @property
    def empty_files(self) -> tuple[str, ...]:
        """Files without rows."""
        return tuple(split.uri for split in self._splits if split.num_rows == 0 and split.error is None)

    def close(self) -> None:
        """Let go of what is known of documents, some 300 bytes of each: no more rows are looked at."""
        self._ledger.clear()
        self._ids.clear()

    def __iter__(self) -> Iterator[Item]:
        """For each row to look at: a document to answer, its failed row, how an earlier run has ended it, also if its
        row is outdated, or that the source does not count it.

        And for each row of an earlier run that is no more: the row that says so.

        Raises:
            SourceError: the place where the files lie cannot be read any more.
        """
        wanted = None if self._selection is None else self._selection.documents
        for item in self._items():
            yield item
            if wanted is not None and item != "left out" and (wanted := wanted - 1) == 0:
                return

    def _items(self) -> Iterator[Item]:
        last = {split.uri: index for index, split in enumerate(self._splits)}
        for index, split in enumerate(self._splits):
            try:
                for number, document in self._read(index, split):
                    if document.left_out is None:
                        yield self._sort(document, split, number)
                    else:
                        self._left_out[document.left_out] += 1
                        yield "left out"
            except FileError as error:
                self._failed.setdefault(error.uri, FailedFile(error.uri, error.reason))
            if self._selection is None and index == last[split.uri] and split.uri not in self._failed:
                for doc_id in sorted(self._ledger.failed_places(split.uri) - self._placed):
                    yield self._rows.gone(doc_id)

    def _read(self, index: int, split: Split) -> Iterator[tuple[int, Document]]:
        """The rows of a split that are to be looked at, with their numbers in it."""
        wanted = None if self._drawn is None else self._drawn[index]
        if wanted is not None and not wanted:
            return
        before, columns = self._before[index], self._columns
        if self._carried:
            documents = self._source.read_carrying(split, columns, self._carried)
        else:
            documents = self._source.read(split, columns)
        for number, document in enumerate(documents if wanted is None else islice(documents, max(wanted) + 1)):
            if wanted is None or number in wanted:
                yield number, document.at(split.uri, None if before is None else before + number)

    def _sort(self, document: Document, split: Split, number: int) -> Item:
        document, problem = self._ids.settle(document, split, number)
        if self._on_document is not None:
            self._on_document(document.doc_id)
        if document.doc_id == _place(document, split, number):
            self._placed.add(document.doc_id)
        state = self._ledger.state(document)
        if state != "new" and state in self._done:
            part = self._ledger.outdated(document) if self._carried else None
            return state if part is None else Outdated(document, part, state)
        return document if problem is None else self._rows.failed(document, "DocumentError", problem)


def _place(document: Document, split: Split, number: int) -> str:
    """Where a row stands, which is its id when it has no other."""
    return document.origin or f"{split.uri}#{split.index}:{number}"
