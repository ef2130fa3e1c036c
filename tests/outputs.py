"""Outputs committed part by part without running a job, with figures that are easy to follow."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import encode_part, folder, part_name
from corm_batch.data.schema import memory_schema, result_schema

START = datetime(2026, 11, 22, 2, 0, 0, tzinfo=UTC)
RUN = "20261122T020000Z-aaaaaa"  # began at START
_FAILURE = {"status": "failed", "output": None, "kv_bytes_full": None, "kv_bytes_peak": None, "kept_ratio": None}


def answered(doc_id, **changes):
    """A document's columns in both tables."""
    row = {
        "doc_id": doc_id,
        "content_sha256": f"text of {doc_id}",
        "fingerprint": "f",
        "status": "ok",
        "output": f"answer to {doc_id}",
        "prompt_tokens": 1000,
        "output_tokens": 10,
        "queue_s": 3.0,
        "prefill_s": 4.0,
        "decode_s": 1.0,
        "kv_bytes_full": 8 * 2**20,
        "kv_bytes_peak": 2 * 2**20,
        "kept_ratio": 0.2,
        "kept_per_layer": [100, 300],
        "evicted_attention_mass": 0.01,
        "preemptions": 0,
        "policy": '{"name": "corm", "window": 64}',
    }
    return row | changes


def failed(doc_id, error_type="DocumentError", message="is empty", **changes):
    """A failed document's columns."""
    return answered(doc_id, **_FAILURE, kept_per_layer=None, error_type=error_type, error_message=message) | changes


def commit(output, rows, *, run_id=RUN, number=0, after_s=60, part_format="parquet", metadata=None):
    """Publish a part, `after_s` seconds after START; returns the output."""
    at = START + timedelta(seconds=after_s)
    rows = [{**row, "run_id": run_id, "committed_at": at} for row in rows]
    for table, schema in (("memory", memory_schema({})), ("results", result_schema([], metadata or {}))):
        content = encode_part(pa.Table.from_pylist(rows, schema=schema), part_format)
        write_whole(f"{folder(str(output), table)}/{part_name(run_id, number, part_format)}", content)
    return str(output)
