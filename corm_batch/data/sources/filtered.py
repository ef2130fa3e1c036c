"""Filtered: the rows of another source for which an expression over its columns holds. It is in no registry.

The others are still read, as rows that are left out, so that every row keeps its place and whoever reads counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from corm_batch.data.document import Document
from corm_batch.data.expressions import cannot_hold, holds, names_in
from corm_batch.data.filesystem import reason
from corm_batch.data.kinds import spelled
from corm_batch.data.sources.base import Refinement, Split

_OF_THE_DOCUMENT = {"text", "doc_id"}
NOT_HELD = "source.filter does not hold"
NULL = "a column that source.filter compares is null"


class Filtered(Refinement):
    """A source whose `filter` is not None."""

    @property
    def leaves_out(self) -> bool:
        """Some rows are none of its documents."""
        return True

    @property
    def _names(self) -> list[str]:
        """Columns that the expression is about."""
        return sorted(names_in(self.of.filter or "") - _OF_THE_DOCUMENT)

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """Those of the source."""
        return self.of.splits(list(dict.fromkeys([*columns, *self._names])))

    def read_carrying(self, split: Split, columns: Sequence[str], carried: Sequence[str]) -> Iterator[Document]:
        """The rows of one split; one for which the filter does not hold is left out, and says so."""
        wanted = list(dict.fromkeys([*carried, *self._names]))
        for document in self.of.read_carrying(split, columns, wanted):
            kept = {name: document.carried[name] for name in carried if name in document.carried}
            yield replace(self._held(document), carried=kept)

    def _held(self, document: Document) -> Document:
        """The row, left out where the filter does not hold; with a problem where it cannot be held against it."""
        has_id = document.problem is None or document.doc_id != document.origin  # which stands for one
        found = {**document.carried, "text": document.text, "doc_id": document.doc_id if has_id else None}
        names = self._names
        values = {name: spelled(value) if isinstance(value, bytes) else value for name, value in found.items()}
        if document.left_out is not None or not values.keys() >= set(names):  # of a row that cannot be read at all
            return document
        compared = [values[name] for name in names_in(self.of.filter or "")]
        try:
            held = holds(self.of.filter or "", values)
        except ValueError as error:
            if document.problem is not None:
                return document
            if None in compared:
                return replace(document, left_out=NULL)
            said = ", ".join(f"{name} = {repr(values[name])[:100]}" for name in sorted(names_in(self.of.filter or "")))
            why = f"source.filter cannot be held against {said} ({reason(error)})"
            return replace(document, text=None, problem=f"{document.origin}: {why}")
        unsure = document.problem is not None and None in compared  # what could not be read is null here
        if held or (unsure and not cannot_hold(self.of.filter or "", values)):
            return document
        return replace(document, left_out=NOT_HELD)
