"""Columns of the two tables a job writes, with units in the field metadata. Knows nothing of how they are filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

import pyarrow as pa

from corm_batch.audit.verification import Verification
from corm_batch.engine.figures import MemoryStats

SCHEMA_VERSION = "1"
"""Of both tables, in their metadata; raised when a column changes its meaning or goes, not for a new one."""
TIMESTAMP = pa.timestamp("us", tz="UTC")


def column(
    name: str, kind: pa.DataType, description: str, *, unit: str | None = None, nullable: bool = True, **more: str
) -> pa.Field:
    """A field that says what it holds and in what unit (bytes, seconds, tokens, entries, nats, ratio), and `more`.

    For whoever counts answers: `answers` names the column with those to the questions that this one holds, and
    `detail` says that it only tells more of an answer.
    """
    metadata = {"description": description} | ({"unit": unit} if unit else {}) | more
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


DOC_ID = column("doc_id", pa.string(), "the document's id, unique in the source", nullable=False)
STATUS = column(
    "status",
    pa.string(),
    "ok, failed, or gone: a row that had no id of its own and is no more, or is right now",
    nullable=False,
)
SOURCE_FILE = column("_source_file", pa.string(), "the file that the document is in")
SOURCE_ROW = column("_source_row", pa.int64(), "which of its file's rows it is, 0 first; null where nothing tells")
QUESTION_NUMBER = column(
    "question_number",
    pa.int64(),
    "which of its document's rows, 0 first, that of what the document took; null where it has one row",
)
IN_SOURCE_ORDER = [(field.name, "ascending") for field in (SOURCE_FILE, SOURCE_ROW, DOC_ID, QUESTION_NUMBER)]
"""What rows are sorted by to lie as in the source."""
_RUN_ID = column("run_id", pa.string(), "the run that wrote this row; join on (doc_id, run_id)", nullable=False)
_TYPES = {
    "int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_(),
    "tuple[int, ...]": pa.list_(pa.int64()),
}  # fmt: skip


def _column_of(figure: Field[Any]) -> pa.Field:
    """The column of a dataclass's field that says in its metadata what it holds."""
    kind = _TYPES[str(figure.type).removesuffix(" | None")]
    return column(figure.name, kind, figure.metadata["description"], unit=figure.metadata["unit"])


FIGURES = {figure.name: _column_of(figure) for figure in fields(MemoryStats)}
"""Columns of `MemoryStats`, by name."""
_TOKENS = [FIGURES[name] for name in ("prompt_tokens", "output_tokens")]
_SECONDS = [FIGURES[name] for name in ("queue_s", "prefill_s", "decode_s", "elapsed_s")]

RESULT_FIELDS: tuple[pa.Field, ...] = (
    DOC_ID,
    column("content_sha256", pa.string(), "hash of what the document said", nullable=False),
    column("fingerprint", pa.string(), "hash of what the spec sets and the answer depends on", nullable=False),
    column("carried_sha256", pa.string(), "hash of the columns of the source that the row has; null where it has none"),
    _RUN_ID,
    STATUS,
    QUESTION_NUMBER,
    SOURCE_FILE,
    SOURCE_ROW,
    column("output", pa.string(), "the answer; when failed, everything the model wrote, null where it wrote nothing"),
    column("error_type", pa.string(), "kind of failure; null when ok"),
    column("error_message", pa.string(), "why it failed; null when ok"),
    column("finish_reason", pa.string(), "stop; length when an answer it rests on was cut at task.max_new_tokens"),
    column("truncated", pa.bool_(), "whether only part of the document was read"),
    column("repetition", pa.float64(), "share of the answer that repeats itself", unit="ratio"),
    column("reasoning_content", pa.string(), "what the model wrote before its answer proper; null where nothing"),
    column(
        "failed_fields",
        pa.list_(pa.struct([pa.field("field", pa.string()), pa.field("reason", pa.string())])),
        "fields whose answer could not be used, each with what was found and what is allowed; null where none",
    ),
    column(
        "fallback",
        pa.bool_(),
        "whether this answer is an uncompressed cache's, which was asked because the first one could not be used; "
        "false: it gave none worth more; null: it was not asked",
    ),
    column(
        "fallback_error", pa.string(), "what was wrong with the answer that does not stand, of these two; else null"
    ),
    *_TOKENS,
    column("pieces", pa.int64(), "prompts asked about this document"),
    *_SECONDS,
    *map(_column_of, fields(Verification)),
    column("committed_at", TIMESTAMP, "when the row's part was written", nullable=False),
)

MEMORY_FIELDS: tuple[pa.Field, ...] = (
    DOC_ID,
    _RUN_ID,
    *FIGURES.values(),
    *(_column_of(figure) for figure in fields(Verification) if figure.metadata["in_memory"]),
    column("policy", pa.string(), "the policy and its settings, as JSON"),
    column("dtype", pa.string(), "number format of the cache: model.dtype, or the name of another engine.storage"),
    column("num_layers", pa.int64(), "layers of the model"),
    column("num_kv_heads", pa.int64(), "key-value heads of a layer"),
    column("head_dim", pa.int64(), "width of a key"),
    column("page_size", pa.int64(), "entries of a page", unit="entries"),
    column("actor", pa.string(), "the replica that answered"),
)

RESULT_NAMES = frozenset(field.name for field in RESULT_FIELDS)
MEMORY_NAMES = frozenset(field.name for field in MEMORY_FIELDS)


def result_schema(task_fields: Iterable[pa.Field], metadata: Mapping[str, str]) -> pa.Schema:
    """Columns of the results table: ours, then the task's; `metadata` names the spec, versions and model."""
    return pa.schema([*RESULT_FIELDS, *task_fields], metadata=_metadata(metadata))


def memory_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """Columns of the memory table."""
    return pa.schema(MEMORY_FIELDS, metadata=_metadata(metadata))


def _metadata(of_run: Mapping[str, str]) -> dict[str, str]:
    return {"corm_batch.schema_version": SCHEMA_VERSION, **of_run}
