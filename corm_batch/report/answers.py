"""Answers of a bounded number of documents, for a report to show."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from corm_batch.output.committed import read_answers

_COLUMNS = (
    "doc_id",
    "status",
    "error_type",
    "error_message",
    "finish_reason",
    "truncated",
    "repetition",
    "failed_fields",
    "verified",
    "agreement",
    "first_difference",
    "rerun",
    "verify_error",
    "prompt_tokens",
    "output_tokens",
    "kv_bytes_full",
    "kv_bytes_peak",
)


def answers_of(output_uri: str, rows: pa.Table, chars: int) -> list[dict[str, Any]]:
    """These rows of what is committed at `output_uri` with their `output`, cut to `chars` characters, by id.

    Raises:
        SourceError: a part cannot be read.
    """
    rows = rows.select(_COLUMNS).sort_by("doc_id")
    outputs = read_answers(output_uri, rows["doc_id"].to_pylist(), chars) if rows.num_rows else {}
    return [{**row, "output": outputs.get(row["doc_id"])} for row in rows.to_pylist()]
