"""Newest: which rows of an output count, and what memory they took. Readers keep nothing else of a part.

Of several rows of one document it is the last one, of the part whose name sorts last; when that says that the row is
gone, none.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.schema import DOC_ID, STATUS
from corm_batch.output.parts import folder, list_parts, read_ahead, read_fields


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
    doc_ids = found["doc_id"]
    rows = pa.table({"doc_id": doc_ids, "row": np.arange(len(doc_ids))})
    newest = np.zeros(len(doc_ids), dtype=bool)
    newest[rows.group_by("doc_id").aggregate([("row", "max")])["row_max"].to_numpy()] = True
    newest &= pc.not_equal(found["status"], "gone").to_numpy()
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
    """Rows of one part of the results, with the columns that only its memory part has; null where that has no row."""
    rows = pc.index_in(results["doc_id"], memory["doc_id"])
    for name in memory.column_names:
        if name not in results.column_names:
            results = results.append_column(memory.field(name), memory[name].take(rows))
    return results


def _ids(uri: str) -> pa.Table:
    """Ids and states of the rows of one part."""
    return read_fields(uri, [DOC_ID, STATUS]).replace_schema_metadata()
