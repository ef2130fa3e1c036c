"""Several rows of one document: how they are made of its lists, told from others, and read as one again.

They lie one after the other in one part, numbered from 0 by `question_number`. The first has all that is said of the
document; the others say what is theirs, and nothing that would count twice. Knows nothing of tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.schema import QUESTION_NUMBER, SOURCE_FILE, SOURCE_ROW

_OF_EACH = (
    *("doc_id", "content_sha256", "fingerprint", "carried_sha256", "run_id", "truncated"),
    *(SOURCE_FILE.name, SOURCE_ROW.name),
)


def exploded(
    row: Mapping[str, Any], columns: Mapping[str, str], of_each: Collection[str] = ()
) -> list[Mapping[str, Any]]:
    """The rows that a document's row makes, one for each entry of its list `columns`; it alone where it has no lists.

    Args:
        row: of the results table.
        columns: of a list, the name of its entry in a row of its own; one whose `output` is null failed.
        of_each: columns of the document that every row of it has, besides those that all documents have.
    """
    if not columns or row.get(next(iter(columns))) is None:
        return [row]
    output = next(name for name, entry in columns.items() if entry == "output")
    reasons = {one["field"]: one["reason"] for one in row.get("failed_fields") or ()}
    rows = list[Mapping[str, Any]]()
    for number in range(len(row[output])):
        found = {entry: row[name][number] for name, entry in columns.items()}
        whole = (
            {**row, "failed_fields": None} if number == 0 else {name: row.get(name) for name in (*_OF_EACH, *of_each)}
        )
        state: dict[str, Any] = {"status": "ok"}
        if found["output"] is None:
            reason = reasons.get(f"{output}[{number}]", row.get("error_message"))
            state = {
                "status": "failed",
                "error_type": row.get("error_type") or "DocumentError",
                "error_message": reason,
            }
            if number == 0 and row["status"] == "failed":
                found["output"] = row.get("output")  # all that the model wrote
        rows.append({**whole, **found, **state, QUESTION_NUMBER.name: number})
    return rows


def is_first(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of rows with these `question_number`s, which are the first of a document, or its only one."""
    return pc.equal(pc.fill_null(numbers, 0), 0)


def newest_of(ids: pa.Table) -> np.ndarray:
    """Which of these rows, in the order in which they were written, are what was written of their document last."""
    firsts = np.flatnonzero(is_first(ids[QUESTION_NUMBER.name]).to_numpy())
    documents = pc.dictionary_encode(ids["doc_id"]).combine_chunks()
    numbers, nowhere = documents.indices.to_numpy(), -1
    begins = np.full(len(documents.dictionary), nowhere)  # of each document: the last of its first rows
    np.maximum.at(begins, numbers[firsts], firsts)
    begins[begins == nowhere] = ids.num_rows
    return np.asarray(np.arange(ids.num_rows) >= begins[numbers])


def joined(rows: pa.Table) -> pa.Table:
    """Rows of one part, those of each document as one: its first, with all their answers, one below the other.

    It is answered when any of them is, and where only some are, `failed_fields`, a count here, says how many are not.
    """
    numbers = rows[QUESTION_NUMBER.name]
    first = is_first(numbers)
    if pc.all(first).as_py() or not rows.num_rows:
        return rows
    begins = np.flatnonzero(first.to_numpy())
    found = rows.take(pa.array(begins))
    if "output" in rows.column_names:
        outputs = np.split(np.array(rows["output"].to_pylist(), dtype=object), begins[1:])
        texts = ["\n".join(filter(None, one)) or None for one in outputs]
        found = with_column(found, "output", pa.array(texts, pa.string()))
    if "status" not in rows.column_names:
        return found
    failed = pc.equal(rows["status"].cast(pa.string()), "failed").to_numpy().astype(np.int64)
    sizes, failures = np.diff([*begins, rows.num_rows]), np.add.reduceat(failed, begins)
    partly = pa.array((failures > 0) & (failures < sizes))
    for name, value in (("status", "ok"), ("error_type", None), ("error_message", None)):
        texts = pc.if_else(partly, pa.scalar(value, pa.string()), found[name].cast(pa.string()))
        found = with_column(found, name, texts.cast(found[name].type))
    counts = pc.if_else(partly, pa.array(failures), found["failed_fields"].cast(pa.int64()))
    return with_column(found, "failed_fields", counts.cast(found["failed_fields"].type))


def with_column(rows: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Rows with other values, perhaps of another type, in a column."""
    return rows.set_column(rows.column_names.index(name), rows.field(name).with_type(values.type), values)
