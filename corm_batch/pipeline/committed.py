"""Committed: what the parts of an output hold, as far as figures need it.

Parts are read one by one, and only the columns that figures need. Answers stay behind, but for a digest and their
beginning when two outputs are to be compared. Knows nothing of the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.filesystem import list_files, read_whole, reading
from corm_batch.data.schema import MEMORY_FIELDS, RESULT_FIELDS
from corm_batch.errors import SourceError
from corm_batch.pipeline.ledger import digest
from corm_batch.pipeline.parts import Table, folder, list_parts, read_ahead, read_part

EXCERPT = 200  # characters of an answer that are kept
_RESULTS = [
    "doc_id",
    "content_sha256",
    "run_id",
    "status",
    "error_type",
    "error_message",
    "prompt_tokens",
    "output_tokens",
    "queue_s",
    "prefill_s",
    "decode_s",
    "committed_at",
]
_MEMORY = [
    "kv_bytes_full",
    "kv_bytes_peak",
    "kv_bytes_final",
    "kept_ratio",
    "kept_per_layer",
    "evicted_attention_mass",
    "preemptions",
    "policy",
]
_KEY = ["doc_id", "run_id"]


@dataclass(frozen=True)
class Commit:
    """One part: the run that wrote it, when, and the documents and tokens (read and written) in it."""

    run_id: str
    at: datetime
    documents: int
    tokens: int


@dataclass(frozen=True)
class RunRecord:
    """What one run that came to its end wrote of itself.

    Attributes:
        documents, tokens: answered in it; tokens read and written.
        seconds: wall time from the first document to the end, start of the replicas included.
    """

    documents: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Committed:
    """What is committed at an output.

    Attributes:
        rows: the newest row of every document, oldest first, with the columns of both tables that figures need; with
            `answer` (the beginning) and `answer_digest` when they were asked for.
        commits: every part, oldest first, also those whose rows a later one replaced.
        recorded: the records of all runs that came to their end in one; a killed run left none.
    """

    rows: pa.Table
    commits: tuple[Commit, ...]
    recorded: RunRecord


def read_committed(output_uri: str, *, answers: bool = False) -> Committed | None:
    """Read what is committed at `output_uri`; None when nothing is.

    Raises:
        SourceError: a part or a run's record cannot be read, or is none.
    """
    results = read_ahead(partial(_read_results, answers=answers), list_parts(folder(output_uri, "results")))
    parts = [part for part in results if part.num_rows]
    if not parts:
        return None
    rows = _newest(pa.concat_tables(parts), ["doc_id"])
    read = partial(_read, table="memory", columns=[*_KEY, *_MEMORY])
    memory = read_ahead(read, list_parts(folder(output_uri, "memory")))
    figures = _newest(pa.concat_tables([*memory, _schema("memory", [*_KEY, *_MEMORY]).empty_table()]), _KEY)
    places = match(rows, figures, _KEY, keep_left=True)["right"]
    for name in _MEMORY:
        rows = rows.append_column(figures.schema.field(name), figures[name].take(places))
    return Committed(rows, tuple(map(_commit, parts)), _recorded(output_uri))


def match(left: pa.Table, right: pa.Table, keys: Sequence[str], *, keep_left: bool = False) -> pa.Table:
    """Rows of two tables with the same `keys`, as row numbers `left` and `right`, in the order of `left`.

    Keys are unique in each table. With `keep_left` rows without a partner stay, their `right` null.
    """
    kind = "left outer" if keep_left else "inner"
    joined = _numbered(left, keys, "left").join(_numbered(right, keys, "right"), list(keys), join_type=kind)
    return joined.select(["left", "right"]).sort_by("left")


def _numbered(table: pa.Table, keys: Sequence[str], name: str) -> pa.Table:
    """The key columns and, as column `name`, the number of the row."""
    return table.select(list(keys)).append_column(name, pa.array(np.arange(table.num_rows)))


def _schema(table: Table, columns: Sequence[str]) -> pa.Schema:
    fields = {field.name: field for field in (RESULT_FIELDS if table == "results" else MEMORY_FIELDS)}
    return pa.schema([fields[name] for name in columns])


def _read(uri: str, table: Table, columns: list[str]) -> pa.Table:
    """`columns` of one part, of the types the table has."""
    try:
        part = read_part(uri, columns).select(columns)
    except KeyError as error:
        raise SourceError(f"{uri}: no part of a job's {table}: {error.args[0]}") from error
    with reading(uri):
        return part.cast(_schema(table, columns))


def _read_results(uri: str, answers: bool) -> pa.Table:
    """One part of the results, answers made short."""
    if not answers:
        return _read(uri, "results", _RESULTS)
    part = _read(uri, "results", [*_RESULTS, "output"])
    digests = [None if answer is None else digest(answer) for answer in part["output"].to_pylist()]
    shortened = pc.utf8_slice_codeunits(part["output"], 0, EXCERPT)
    part = part.drop_columns("output").append_column("answer", shortened)
    return part.append_column("answer_digest", pa.array(digests, pa.binary()))


def _newest(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The last row of every key."""
    last = _numbered(rows, keys, "row").group_by(list(keys)).aggregate([("row", "max")]).sort_by("row_max")
    return rows.take(last["row_max"])


def _commit(part: pa.Table) -> Commit:
    tokens = sum(pc.sum(part[name]).as_py() or 0 for name in ("prompt_tokens", "output_tokens"))
    return Commit(part["run_id"][0].as_py(), pc.max(part["committed_at"]).as_py(), part.num_rows, tokens)


def _recorded(output_uri: str) -> RunRecord:
    """All records in one."""
    found = [_record(uri) for uri in list_files(f"{output_uri.rstrip('/')}/_job/runs/", (".json",))]
    return RunRecord(
        documents=sum(run.documents for run in found),
        tokens=sum(run.tokens for run in found),
        seconds=sum(run.seconds for run in found if run.documents),
    )


def _record(uri: str) -> RunRecord:
    """One run's record."""
    content = read_whole(uri)
    try:
        run = json.loads(content)
        return RunRecord(int(run["ok"]), int(run["prompt_tokens"] + run["output_tokens"]), float(run["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{uri}: no record of a run: {error}") from error
