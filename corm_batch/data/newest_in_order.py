"""NewestInOrder: the newest rows of an output as they lie in the source. Few of them are in memory at a time.

Knows nothing of kinds of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.exploded import with_column
from corm_batch.data.formats.json_values import values_of
from corm_batch.data.kinds import spelled, unified
from corm_batch.data.newest_rows import memory_parts, newest_rows, with_memory
from corm_batch.data.parts import part_schema, read_ahead, read_fields, read_part
from corm_batch.data.schema import DOC_ID, IN_SOURCE_ORDER, QUESTION_NUMBER, SOURCE_FILE, SOURCE_ROW, memory_schema
from corm_batch.errors import SpecError

_ROWS_AT_ONCE, _PARTS_KEPT = 1000, 4


class NewestInOrder:
    """The rows, piece by piece, each of one schema: by file, then by row; rows of which no part tells come last, by
    their documents' ids. A column that has several types in the parts has one that holds all its values, text where
    nothing narrower does.

    Attributes:
        count: of the rows.
        schema: of all of them.
    """

    def __init__(self, uri: str, *, memory: bool = False) -> None:
        """Those of the output at `uri`, with the columns of the memory table where these are wanted.

        Raises:
            SpecError: nothing is committed there.
            SourceError: a part cannot be read.
        """
        self._newest = newest_rows(uri)
        if not self._newest:
            raise SpecError(f"{uri}: nothing is committed there; expected the output.uri of a job")
        self._uris = list(self._newest)
        self._memory = memory_parts(uri) if memory else None
        self._part = lru_cache(_PARTS_KEPT)(self._read)
        keys = _by_rank(pa.concat_tables(self._keys(*one) for one in enumerate(read_ahead(_ids, self._uris))))
        order = pc.sort_indices(keys, IN_SOURCE_ORDER)
        self._places = np.stack([keys[name].take(order).to_numpy() for name in ("part", "row")])
        self.count: int = keys.num_rows
        self.schema = self._schema()

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows, a thousand at a time.

        Raises:
            SourceError: a part cannot be read.
        """
        for start in range(0, self.count, _ROWS_AT_ONCE):
            parts, rows = self._places[:, start : start + _ROWS_AT_ONCE]
            by_part = [np.flatnonzero(parts == part) for part in np.unique(parts)]
            pieces = [
                _conformed(self._part(int(parts[of_it[0]])).take(pa.array(rows[of_it])), self.schema)
                for of_it in by_part
            ]
            yield pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(by_part)))).combine_chunks()

    def _keys(self, part: int, ids: pa.Table) -> pa.Table:
        """What the newest rows of a part are sorted by, and where they lie."""
        newest = self._newest[self._uris[part]]
        rows = np.flatnonzero(newest.to_numpy(zero_copy_only=False)).astype(np.int32)
        keys = ids.filter(newest).append_column("part", pa.array(np.full_like(rows, part)))
        return keys.append_column("row", pa.array(rows))

    def _read(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one part, newest or not."""
        uri, names = self._uris[part], None if columns is None else list(columns)
        rows = read_part(uri, names)
        if self._memory is None or columns is not None:
            return rows
        return with_memory(
            rows, read_part(self._memory[uri]) if uri in self._memory else memory_schema({}).empty_table()
        )

    def _schema(self) -> pa.Schema:
        """Of all columns, in the order of the newest part, and what all parts say of the run."""
        schemas = list(read_ahead(part_schema, self._uris))
        fields = {field.name: field for schema in schemas for field in schema}
        found = []
        for name in dict.fromkeys(name for schema in reversed(schemas) for name in schema.names):
            parts = [part for part, schema in enumerate(schemas) if name in schema.names]
            kinds = {schemas[part].field(name).type for part in parts}
            kind = kinds.pop() if len(kinds) == 1 else self._common(name, parts)
            nullable = len(parts) < len(schemas) or any(schemas[part].field(name).nullable for part in parts)
            kind = pa.string() if pa.types.is_null(kind) else kind
            found.append(fields[name].with_type(kind).with_nullable(nullable))
        if self._memory is not None:
            found += [field.with_nullable(True) for field in memory_schema({}) if field.name not in fields]
        shared = set.intersection(*(set((schema.metadata or {}).items()) for schema in schemas))
        return pa.schema(found, metadata=dict(shared))

    def _common(self, name: str, parts: Sequence[int]) -> pa.DataType:
        """A type for all values of a column in the newest rows of these parts; text where none narrower is."""
        columns = [self._read(part, [name])[name].filter(self._newest[self._uris[part]]) for part in parts]
        kind = unified([column.type for column in columns if column.null_count < len(column)] or [columns[-1].type])
        try:
            for column in columns:
                column.cast(kind or pa.string())
        except (pa.ArrowException, NotImplementedError):
            return pa.string()
        return kind or pa.string()


def _ids(uri: str) -> pa.Table:
    ids = read_fields(uri, [DOC_ID, QUESTION_NUMBER, SOURCE_FILE, SOURCE_ROW]).replace_schema_metadata()
    return with_column(ids, SOURCE_FILE.name, ids[SOURCE_FILE.name].dictionary_encode())


def _by_rank(keys: pa.Table) -> pa.Table:
    """Rows with the rank of their file in place of its name: Arrow does not sort by what lies in a dictionary."""
    files = keys[SOURCE_FILE.name].combine_chunks()
    ranks = pc.rank(files.dictionary, tiebreaker="dense")
    return with_column(keys, SOURCE_FILE.name, ranks.take(files.indices))


def _conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with all columns of a schema."""
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows[field.name]
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowException, NotImplementedError):
            columns.append(pa.array(map(spelled, values_of(column)), pa.string()))
    return pa.table(columns, schema=schema)
