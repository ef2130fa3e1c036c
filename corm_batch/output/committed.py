"""Committed: what the parts of an output hold, as far as figures need it.

Parts are read one by one, and only the columns that figures need. Answers stay behind, but for a digest and their
beginning when two outputs are to be compared. Knows nothing of the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.filesystem import list_files, read_whole
from corm_batch.data.schema import MEMORY_FIELDS, RESULT_FIELDS
from corm_batch.data.uri import resolve_uri
from corm_batch.errors import SourceError
from corm_batch.output.ledger import digest
from corm_batch.output.newest_rows import memory_parts, newest_rows, with_memory
from corm_batch.output.parts import Table, folder, read_ahead, read_fields

EXCERPT = 200  # characters of an answer that are kept
_RESULTS = [
    "doc_id",
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
_ANSWERS = ["content_sha256", "output"]
_COMPACT = {  # what repeats, and counts of far less than 2^31 entries, in the room that they need
    **dict.fromkeys(("run_id", "status", "error_type", "policy"), pa.dictionary(pa.int32(), pa.string())),
    "kept_per_layer": pa.list_(pa.int32()),
}


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
            `content_sha256`, `answer` (the beginning) and `answer_digest` when answers were asked for.
        commits: every part, oldest first, also those whose rows a later one replaced.
        recorded: the records of all runs that came to their end in one; a killed run left none.
    """

    rows: pa.Table
    commits: tuple[Commit, ...]
    recorded: RunRecord


def read_committed(output_uri: str, *, answers: bool = False) -> Committed | None:
    """Read what is committed at `output_uri`; None when nothing is.

    Raises:
        SpecError: no such kind of place.
        SourceError: a part or a run's record cannot be read, or is none.
    """
    output_uri = resolve_uri(output_uri)
    newest, memory_of = newest_rows(output_uri), memory_parts(output_uri)
    no_memory = _schema("memory", ["doc_id", *_MEMORY]).empty_table()

    def read(uri: str) -> tuple[Commit, pa.Table]:
        part = _read_results(uri, answers)
        memory = _read(memory_of[uri], "memory", ["doc_id", *_MEMORY]) if uri in memory_of else no_memory
        return _commit(part), with_memory(part.filter(newest[uri]), memory)

    parts = list(read_ahead(read, newest))
    if not parts:
        return None
    commits, rows = zip(*parts, strict=True)
    return Committed(pa.concat_tables(rows), commits, _recorded(output_uri))


def _schema(table: Table, columns: Sequence[str]) -> pa.Schema:
    fields = {field.name: field for field in (RESULT_FIELDS if table == "results" else MEMORY_FIELDS)}
    return pa.schema([fields[name].with_type(_COMPACT.get(name, fields[name].type)) for name in columns])


def _read(uri: str, table: Table, columns: list[str]) -> pa.Table:
    """`columns` of one part, of the table's types, compact."""
    return read_fields(uri, list(_schema(table, columns)))


def _read_results(uri: str, answers: bool) -> pa.Table:
    """One part of the results, answers made short."""
    if not answers:
        return _read(uri, "results", _RESULTS)
    part = _read(uri, "results", [*_RESULTS, *_ANSWERS])
    digests = [None if answer is None else digest(answer) for answer in part["output"].to_pylist()]
    shortened = pc.utf8_slice_codeunits(part["output"], 0, EXCERPT)
    part = part.drop_columns("output").append_column("answer", shortened)
    return part.append_column("answer_digest", pa.array(digests, pa.binary()))


def _commit(part: pa.Table) -> Commit:
    tokens = sum(pc.sum(part[name]).as_py() or 0 for name in ("prompt_tokens", "output_tokens"))
    return Commit(part["run_id"][0].as_py(), pc.max(part["committed_at"]).as_py(), part.num_rows, tokens)


def _recorded(output_uri: str) -> RunRecord:
    """All records in one."""
    found = [_record(uri) for uri in list_files(f"{folder(output_uri, '_job')}/runs/", (".json",))]
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
        raise SourceError(f"{uri}: no record of a run: {error}. Delete it: only its figures are lost") from error
