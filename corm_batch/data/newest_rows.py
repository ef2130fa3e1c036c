"""Newest: which rows of an output count, and what memory they took. Readers keep nothing else of a part.

Of a document it is what was written last, one row or several at once, of the part whose name sorts last; when that says
that the row is gone, none.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.exploded import is_first, newest_of, with_column
from corm_batch.data.filesystem import list_files
from corm_batch.data.formats.json_values import values_of
from corm_batch.data.kinds import spelled, unified
from corm_batch.data.parts import folder, list_parts, read_ahead, read_fields, read_part
from corm_batch.data.schema import DOC_ID, QUESTION_NUMBER, STATUS, memory_schema, result_schema
from corm_batch.data.uri import resolve_uri
from corm_batch.errors import SourceError


def read_results(output_uri: str | os.PathLike[str], *, memory: bool = False) -> pa.Table:
    """The newest row of every document, or rows, in no particular order; no rows when nothing is committed yet.

    A column whose type changed between versions or settings has one that holds all its values: text, where nothing
    narrower does.

    Args:
        output_uri: where the job wrote: a folder, local or s3://.
        memory: add the columns of the memory table; null where a part of it is gone.

    Raises:
        SpecError: no such kind of place.
        SourceError: no job has written there, or a part cannot be read. A damaged part (DamagedPartError) is not left
            out: the row before, of the same document, would be taken for its newest.
    """
    uri = resolve_uri(os.fspath(output_uri))
    newest = newest_rows(uri)
    if not newest and not list_files(f"{folder(uri, '_job')}/"):
        raise SourceError(f"{output_uri}: no job has written there; expected the output.uri of a job")
    memory_of = memory_parts(uri) if memory else {}
    no_memory, empty = memory_schema({}).empty_table(), result_schema((), {}).empty_table()

    def read(part: str) -> pa.Table:
        rows = read_part(part).filter(newest[part])
        if not memory:
            return rows
        return with_memory(rows, read_part(memory_of[part]) if part in memory_of else no_memory)

    return _joined(list(read_ahead(read, newest)) or [with_memory(empty, no_memory) if memory else empty])


def newest_rows(output_uri: str) -> dict[str, pa.Array]:
    """Of every part of the results that has rows, by its URI and oldest first: which rows are newest, as booleans.

    Raises:
        SourceError: a part cannot be read.
    """
    uris = list_parts(folder(output_uri, "results"))
    parts = {uri: ids for uri, ids in zip(uris, read_ahead(_ids, uris), strict=True) if len(ids)}
    if not parts:
        return {}
    found = pa.concat_tables(parts.values())
    newest = newest_of(found) & pc.not_equal(found["status"], "gone").to_numpy()
    ends = np.cumsum([len(ids) for ids in parts.values()])
    return {uri: pa.array(part) for uri, part in zip(parts, np.split(newest, ends[:-1]), strict=True)}


def memory_parts(output_uri: str) -> dict[str, str]:
    """URIs of the memory parts, each by that of the results it was written with, which has the same name.

    Raises:
        SourceError: the folder cannot be listed.
    """
    memory = {uri.rpartition("/")[2]: uri for uri in list_parts(folder(output_uri, "memory"))}
    results = {uri: memory.get(uri.rpartition("/")[2]) for uri in list_parts(folder(output_uri, "results"))}
    return {uri: of_it for uri, of_it in results.items() if of_it is not None}


def with_memory(results: pa.Table, memory: pa.Table) -> pa.Table:
    """Rows of one part of the results, with the columns that only its memory part has; null where that has no row.

    Of several rows of a document the first has them.
    """
    rows = pc.index_in(results["doc_id"], memory["doc_id"])
    if QUESTION_NUMBER.name in results.column_names:
        rows = pc.if_else(is_first(results[QUESTION_NUMBER.name]), rows, None)
    for name in memory.column_names:
        if name not in results.column_names:
            results = results.append_column(memory.field(name), memory[name].take(rows))
    return results


def _ids(uri: str) -> pa.Table:
    """Ids, states and numbers of the rows of one part."""
    return read_fields(uri, [DOC_ID, STATUS, QUESTION_NUMBER]).replace_schema_metadata()


def _joined(parts: list[pa.Table]) -> pa.Table:
    """The rows of all parts; columns that hold different kinds of values in them become text, losing none."""
    for name in dict.fromkeys(name for part in parts for name in part.column_names):
        places = [place for place, part in enumerate(parts) if name in part.column_names]
        columns = [parts[place][name] for place in places]
        if len({column.type for column in columns}) == 1:
            continue
        for place, column in zip(places, _of_one_type(columns), strict=True):
            parts[place] = with_column(parts[place], name, column)
    return pa.concat_tables(parts, promote_options="default")


def _of_one_type(columns: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
    """`columns` in one type that holds the values of all that have any."""
    columns = [pa.chunked_array([pa.nulls(len(one))]) if one.null_count == len(one) else one for one in columns]
    kind = unified(column.type for column in columns)
    if kind is not None:
        try:
            return [column.cast(kind) for column in columns]
        except (pa.ArrowException, NotImplementedError):
            pass
    return [pa.chunked_array([list(map(spelled, values_of(column)))], pa.string()) for column in columns]
