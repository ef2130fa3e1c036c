"""GivenRows: documents that a Python program has: an Arrow table, a frame, or rows as mappings. It is in no registry.

They stay in the process that has them: replicas are given documents, never their source. Knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, ClassVar, Self

import pyarrow as pa
from pydantic import Field, PrivateAttr, ValidationError

from corm_batch.data.columns import is_in, listed, place_in, value_in
from corm_batch.data.document import Document
from corm_batch.data.filesystem import reason
from corm_batch.data.kinds import kind_of, python_value
from corm_batch.data.sources.base import Split
from corm_batch.data.sources.tables import USUAL_ID, TableSource, unusable
from corm_batch.errors import SourceError, SpecError
from corm_batch.registry import describe

_PLACE = "documents"
_LOOKED_AT = 100
_ROWS_AT_ONCE = 256


class GivenRows(TableSource):
    """Rows of one table, or rows that come one after the other and are read once."""

    name: ClassVar[str] = "python"

    uri: str = Field(_PLACE, description="what messages, and ids that are made of places, call it")
    _rows: Iterator[Any] | Sequence[Any] | pa.Table | None = PrivateAttr(None)
    _head: Sequence[Any] = PrivateAttr(())

    @classmethod
    def of(cls, documents: Any, fields: Mapping[str, Any], *, read_again: bool = False) -> Self:
        """The source of some documents.

        Args:
            documents: an Arrow table, or what has the Arrow interface, as frames of pandas and Polars do; or mappings
                of column to value, one a document.
            fields: of a source of files: `id_column`, `text_column`, `text_separator`.
            read_again: whether they are to be read more than once.

        Raises:
            SpecError: they are none of these, or a field is wrong.
        """
        try:
            made = cls.model_validate({**fields, "uri": _PLACE})
        except ValidationError as error:
            raise SpecError(describe(error, "source", cls)) from error
        if any(hasattr(documents, f"__arrow_c_{form}__") for form in ("stream", "array")):
            try:
                made._rows = pa.table(documents)
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise SpecError(f"documents: cannot be read as an Arrow table: {reason(error)}") from error
        elif isinstance(documents, Iterable) and not isinstance(documents, str | bytes | Mapping):
            rows = list(documents) if read_again and not isinstance(documents, Sequence) else documents
            made._rows = rows if isinstance(rows, Sequence) else iter(rows)
            made._head = list(islice(made._rows, _LOOKED_AT))
        else:
            raise SpecError(
                "documents: expected an Arrow table, a frame of pandas or Polars, or mappings one after the other, "
                f"got {type(documents).__name__}"
            )
        return made

    def with_ids(self) -> Self:
        """The same where the ids of rows have to be their own: one that has none has a problem."""
        return self.model_copy(update={"id_column": self.id_in((USUAL_ID,))})

    def __getstate__(self) -> dict[Any, Any]:
        """Without the rows."""
        return {**super().__getstate__(), "__pydantic_private__": {"_rows": None, "_head": ()}}

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """All rows as one split.

        Raises:
            SourceError: there are none.
            SpecError: they do not have `columns`, the id and the text.
        """
        if isinstance(self._rows, Iterator):
            num_rows = -1 if self._head else 0
        else:
            num_rows = 0 if self._rows is None else len(self._rows)
        if not num_rows:
            raise SourceError("documents: there are none")
        return [Split(_PLACE, 0, num_rows, kinds=self._kinds(columns))]

    def would_read(self, uri: str) -> bool:
        """No file."""
        return False

    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The same: there is one place."""
        return self.splits(columns)

    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of all rows; one that is no mapping, or lacks id or text, becomes one with a problem.

        Raises:
            SourceError: rows that come one after the other have been read before.
        """
        for number, row in enumerate(self._each()):
            origin = f"{_PLACE}#{number}"
            if isinstance(row, Mapping):
                values = {name: self._value(row, name) for name in self.wanted([*columns, *carried], row)}
                yield self.document(values, columns, origin, carried)
            else:
                yield unusable(origin, f"it is no mapping of columns to values but {type(row).__name__}")

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        """The value of a column of a row."""
        if isinstance(self._rows, pa.Table) and name not in row:
            return place_in(self._rows.schema, name).value_in(row, name)
        return value_in(row, name)

    def _each(self) -> Iterator[Any]:
        """Every row."""
        rows = self._rows
        if rows is None:
            raise SourceError("documents: they come one after the other, and have been read")
        if isinstance(rows, pa.Table):
            return rows_of(rows)
        if isinstance(rows, Iterator):
            head, self._head, self._rows = self._head, (), None
            return chain(head, rows)
        return iter(rows)

    def _kinds(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """The types of columns, all of which are there, as are id and text.

        Raises:
            SpecError: one is not.
        """
        if isinstance(self._rows, pa.Table):
            schema = self._rows.schema
            names, places = schema.names, {}
            for name in self.wanted(columns, names):
                try:
                    places[name] = place_in(schema, name).kind
                except KeyError:
                    raise self._lacks(name, names) from None
            return {name: places[name] for name in columns}
        rows = [row for row in self._head if isinstance(row, Mapping)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        for name in self.wanted(columns, names):
            if not any(is_in(row, name) for row in rows):
                raise self._lacks(name, names)
        return {name: kind_of([value_in(row, name) for row in rows]) for name in columns}

    def _lacks(self, name: str, names: Sequence[Any]) -> SpecError:
        found = ", ".join(listed(str(one)) for one in names) or "none"
        why = " for ids, as another run's documents have the same places" if name == self.id_column else ""
        return SpecError(f"source: documents: one column {name!r} is wanted{why}; there are: {found}")


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, a few at a time as Python values; a cell that is none is the exception that says so."""
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for cells in zip(*batch.columns, strict=True):
            yield dict(zip(table.column_names, map(python_value, cells), strict=True))
