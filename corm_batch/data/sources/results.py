"""Answers of an earlier job as documents: one step reads what another has written. Knows nothing of what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
from pydantic import Field

from corm_batch.data.columns import place_in
from corm_batch.data.document import Document
from corm_batch.data.expressions import names_in
from corm_batch.data.newest_in_order import NewestInOrder
from corm_batch.data.schema import DOC_ID, QUESTION_NUMBER, SOURCE_FILE, SOURCE_ROW, STATUS
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.given import rows_of
from corm_batch.data.sources.tables import TableSource
from corm_batch.data.uri import Uri
from corm_batch.errors import SourceError, SpecError

FAILED = "failed in the job that this one reads"
_ABOUT_FAILURES = {STATUS.name, "error_type", "error_message"}


class ResultsSource(TableSource, name="results"):
    """Answers of an earlier job, the newest of every document; failed ones are left out unless `filter` is about them.

    It is if it names `status`, `error_type` or `error_message`: then it says which rows are taken, failed or not.
    They lie in the order of that job's source.

    Columns are those of the results: the task's, those that were carried over, `status`, `error_message` and the like.
    Of several rows of one document (`rows: question`) each is one, its number behind the id.
    """

    uri: Uri = Field(description="the output.uri of that job: a folder, local or s3://")
    text_column: str = Field(
        "output",
        min_length=1,
        description="the document: output, a column of the task's or one that was carried over; dots lead into objects",
    )

    @property
    def leaves_out(self) -> bool:
        """Failed rows are none of its documents."""
        return True

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """All rows as one split.

        Raises:
            SourceError: nothing is committed there, or a part cannot be read.
            SpecError: the rows do not have `columns` or the text.
        """
        rows = self._newest()
        kinds = {name: self._kind(rows.schema, name) for name in self.wanted(columns, rows.schema.names)}
        return [Split(self.uri, 0, rows.count, kinds={name: kinds[name] for name in columns})]

    def would_read(self, uri: str) -> bool:
        """Whether it is a part of the results there."""
        return uri.startswith(f"{self.uri.rstrip('/')}/results/")

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The same: there is one place."""
        return self.splits(columns)

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of all rows; each says in which file and row of the first source its document is.

        Raises:
            SourceError: a part cannot be read.
        """
        told = self.filter is not None and bool(_ABOUT_FAILURES & set(names_in(self.filter)))
        for piece in (rows := self._newest()):
            names = self.wanted([*columns, *carried], rows.schema.names)
            places = {name: place_in(rows.schema, name) for name in names}
            for row in rows_of(piece):
                values = {name: place.value_in(row, name) for name, place in places.items()}
                document = self.document(values, columns, f"{split.uri}#{row[DOC_ID.name]}", carried)
                number = row.get(QUESTION_NUMBER.name)
                yield replace(
                    document,
                    doc_id=document.doc_id if number is None else f"{document.doc_id}#{number}",
                    left_out=None if told or row[STATUS.name] == "ok" else FAILED,
                    file=row.get(SOURCE_FILE.name),
                    row=row.get(SOURCE_ROW.name),
                )

    def _newest(self) -> NewestInOrder:
        try:
            return NewestInOrder(self.uri)
        except (SpecError, SourceError) as error:  # another job may yet write there
            raise SourceError(f"source.uri: {error}") from error

    def _kind(self, schema: pa.Schema, name: str) -> pa.DataType:
        try:
            return place_in(schema, name).kind
        except KeyError:
            raise SpecError(
                f"source: {self.uri}: one column {name!r} is wanted; the results have: {', '.join(schema.names)}"
            ) from None
