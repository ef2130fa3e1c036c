"""Committed: what the parts of an output hold, as far as figures need it.

Parts are read one by one, and only the columns that figures need. Answers stay behind, but for a digest and their
beginning when two outputs are to be compared. Knows nothing of the figures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from corm_batch.data.document import digest
from corm_batch.data.exploded import is_first, joined
from corm_batch.data.newest_rows import memory_parts, newest_rows, with_memory
from corm_batch.data.parts import Table, read_ahead, read_fields
from corm_batch.data.schema import MEMORY_FIELDS, RESULT_FIELDS
from corm_batch.data.uri import resolve_uri
from corm_batch.output.run_records import RunRecord, read_records

EXCERPT = 200  # characters of an answer that are kept
_RESULTS = [
    "doc_id",
    "run_id",
    "status",
    "question_number",
    "error_type",
    "error_message",
    "prompt_tokens",
    "output_tokens",
    "queue_s",
    "prefill_s",
    "decode_s",
    "elapsed_s",
    "finish_reason",
    "truncated",
    "repetition",
    "failed_fields",
    "fallback",
    "verified",
    "agreement",
    "first_difference",
    "largest_gap",
    "logprob_full",
    "logprob_kept",
    "rerun",
    "verify_error",
    "verify_share",
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
    "verify_s",
    "policy",
]
_ANSWERS = ["content_sha256", "output"]
_DESCRIBED = ("corm_batch.job", "corm_batch.spec", "corm_batch.model_hash", "corm_batch.versions")
_COMPACT = {  # what repeats, and counts of far less than 2^31 entries, in the room that they need
    **dict.fromkeys(
        ("run_id", "status", "error_type", "policy", "finish_reason"), pa.dictionary(pa.int32(), pa.string())
    ),
    "kept_per_layer": pa.list_(pa.int32()),
    "question_number": pa.int32(),
}


@dataclass(frozen=True)
class Commit:
    """One part: the run that wrote it, when, and the documents and tokens (read and written) in it."""

    run_id: str
    at: datetime
    documents: int
    tokens: int


@dataclass(frozen=True)
class JobSettings:
    """What parts say of the job that wrote them.

    Attributes:
        name: the job's name; "-" where the parts do not tell.
        settings: its whole spec by section, with `model.hash` and `versions` of the packages; empty likewise.
        documents: newest rows that it wrote.
    """

    name: str
    settings: Mapping[str, Any]
    documents: int


@dataclass(frozen=True)
class Committed:
    """What is committed at an output.

    Attributes:
        rows: the newest row of every document, oldest first, with the columns of both tables that figures need, of
            `failed_fields` how many there are; with
            `content_sha256`, `answer` (the beginning) and `answer_digest` when answers were asked for.
        commits: every part, oldest first, also those whose rows a later one replaced.
        records: those of the runs that came to their end, by their ids.
        jobs: who wrote the rows, most rows first.
    """

    rows: pa.Table
    commits: tuple[Commit, ...]
    records: tuple[RunRecord, ...]
    jobs: tuple[JobSettings, ...]


def read_committed(output_uri: str, *, answers: bool = False) -> Committed | None:
    """Read what is committed at `output_uri`; None when nothing is.

    Raises:
        SpecError: no such kind of place.
        SourceError: a part or a run's record cannot be read, or is none.
    """
    output_uri = resolve_uri(output_uri)
    newest, memory_of = newest_rows(output_uri), memory_parts(output_uri)
    no_memory = _schema("memory", ["doc_id", *_MEMORY]).empty_table()

    def read(uri: str) -> tuple[Commit, pa.Table, tuple[bytes, ...]]:
        part, job = _read_results(uri, answers)
        memory = _read(memory_of[uri], "memory", ["doc_id", *_MEMORY])[0] if uri in memory_of else no_memory
        rows = with_memory(joined(part.filter(newest[uri])), memory)
        return _commit(part), _shortened(rows) if answers else rows, job

    parts = list(read_ahead(read, newest))
    if not parts:
        return None
    commits, rows, jobs = zip(*parts, strict=True)
    records = read_records(output_uri)
    return Committed(pa.concat_tables(rows), commits, records, _jobs(zip(jobs, map(len, rows), strict=True)))


def read_answers(output_uri: str, doc_ids: Collection[str], limit: int) -> dict[str, str]:
    """What the newest rows of these documents say, failed ones too, at most `limit` characters of each.

    Raises:
        SourceError: a part cannot be read.
    """
    output_uri = resolve_uri(output_uri)
    newest, wanted, found = newest_rows(output_uri), pa.array(doc_ids, pa.string()), {}

    def read(uri: str) -> dict[str, str]:
        part = read_fields(uri, list(_schema("results", ["doc_id", "question_number", "output"])))
        part = joined(part.filter(newest[uri]))
        part = part.filter(pc.and_(pc.is_in(part["doc_id"], wanted), pc.is_valid(part["output"])))
        shortened = pc.utf8_slice_codeunits(part["output"], 0, limit)
        return dict(zip(part["doc_id"].to_pylist(), shortened.to_pylist(), strict=True))

    for part in read_ahead(read, newest):
        found.update(part)
        if len(found) == len(doc_ids):
            break
    return found


def _schema(table: Table, columns: Sequence[str]) -> pa.Schema:
    fields = {field.name: field for field in (RESULT_FIELDS if table == "results" else MEMORY_FIELDS)}
    return pa.schema([fields[name].with_type(_COMPACT.get(name, fields[name].type)) for name in columns])


def _read(uri: str, table: Table, columns: list[str]) -> tuple[pa.Table, tuple[bytes, ...]]:
    """`columns` of one part, of the table's types, compact; and who wrote it."""
    part = read_fields(uri, list(_schema(table, columns)))
    described = part.schema.metadata or {}
    return part, tuple(described.get(name.encode(), b"") for name in _DESCRIBED)


def _read_results(uri: str, answers: bool) -> tuple[pa.Table, tuple[bytes, ...]]:
    """One part of the results."""
    part, job = _read(uri, "results", [*_RESULTS, *(_ANSWERS if answers else ())])
    failed_fields = pc.list_value_length(part["failed_fields"])
    return part.set_column(part.column_names.index("failed_fields"), "failed_fields", failed_fields), job


def _shortened(part: pa.Table) -> pa.Table:
    """Rows with a digest of each answer and its beginning in place of it."""
    digests = [None if answer is None else digest(answer) for answer in part["output"].to_pylist()]
    shortened = pc.utf8_slice_codeunits(part["output"], 0, EXCERPT)
    part = part.drop_columns("output").append_column("answer", shortened)
    return part.append_column("answer_digest", pa.array(digests, pa.binary()))


def _commit(part: pa.Table) -> Commit:
    tokens = sum(pc.sum(part[name]).as_py() or 0 for name in ("prompt_tokens", "output_tokens"))
    standing = pc.and_(is_first(part["question_number"]), pc.not_equal(part["status"].cast(pa.string()), "gone"))
    documents = pc.sum(standing).as_py()
    return Commit(part["run_id"][0].as_py(), pc.max(part["committed_at"]).as_py(), documents, tokens)


def _jobs(parts: Iterable[tuple[tuple[bytes, ...], int]]) -> tuple[JobSettings, ...]:
    """Who wrote the parts, given as (what each says of that, its newest rows)."""
    documents: Counter[tuple[bytes, ...]] = Counter()
    for described, count in parts:
        documents[described] += count
    return tuple(_job(described, count) for described, count in documents.most_common() if count)


def _job(described: tuple[bytes, ...], documents: int) -> JobSettings:
    name, spec, model_hash, versions = (value.decode("utf-8", "replace") for value in described)
    try:
        settings = dict(yaml.safe_load(spec) or {})
        settings["model"] = {**settings.get("model", {}), "hash": model_hash}
        settings["versions"] = json.loads(versions or "{}")
    except (ValueError, TypeError, yaml.YAMLError):  # what somebody else wrote there
        settings = {}
    return JobSettings(name or "-", settings if spec else {}, documents)
