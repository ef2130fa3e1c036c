"""Commands run as a user runs them, in this process: exit code, standard output, standard error."""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from corm_batch.cli import main
from corm_batch.data.schema import memory_schema, result_schema


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def corm_batch(monkeypatch, capsys):
    """Call with the arguments of the command line."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["corm-batch", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Result(exit_.value.code or 0, printed.out, printed.err)

    return call


def result_row(doc_id, **changes):
    row = {
        "doc_id": doc_id,
        "content_sha256": "c",
        "fingerprint": "f",
        "run_id": "run-1",
        "status": "ok",
        "output": "35564",
        "prompt_tokens": 12_000,
        "output_tokens": 5,
        "prefill_s": 4.0,
        "decode_s": 1.0,
        "queue_s": 61.0,
        "committed_at": datetime.now(UTC),
    }
    return row | changes


def memory_row(doc_id, **changes):
    row = {
        "doc_id": doc_id,
        "run_id": "run-1",
        "kv_bytes_full": 8 * 2**20,
        "kv_bytes_peak": 2 * 2**20,
        "kept_ratio": 0.2,
        "kept_per_layer": [100, 300],
        "evicted_attention_mass": 0.01,
        "policy": '{"name": "corm", "window": 64, "budget": null}',
    }
    return row | changes


@pytest.fixture
def write_output(tmp_path):
    """Call to commit two answers and a failure to `tmp_path/out`, and the record of their run; returns the folder."""

    def write():
        tables = {
            "results": (
                result_schema([], {}),
                [
                    result_row("a"),
                    result_row("b", output="Oslo\nor \x1b[1mBergen"),
                    result_row("c", status="failed", output=None, error_type="DocumentError", error_message="is empty"),
                ],
            ),
            "memory": (memory_schema({}), [memory_row("a"), memory_row("b", kept_ratio=0.4)]),
        }
        for name, (schema, rows) in tables.items():
            folder = tmp_path / "out" / name
            folder.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "part-run-1-000000.parquet")
        runs = tmp_path / "out/_job/runs"
        runs.mkdir(parents=True)
        record = {"ok": 2, "failed": 1, "prompt_tokens": 24_000, "output_tokens": 10, "seconds": 12.0}
        (runs / "run-1.json").write_text(json.dumps(record))
        return tmp_path / "out"

    return write


@pytest.fixture
def write_job(tmp_path, model_without_weights):
    """Call with rows and changes to the spec, by section; returns the spec's path."""

    def write(rows, **sections):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "documents.parquet", row_group_size=2000)
        job = {
            "name": "test",
            "model": {"name": str(model_without_weights), "dtype": "float32", "device": "cpu"},
            "source": {"name": "parquet", "uri": str(tmp_path / "documents.parquet")},
            "task": {"name": "question_answer", "question": "What is the pass key?", "max_new_tokens": 16},
            "policy": {"name": "corm"},
            "output": {"uri": str(tmp_path / "out")},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job | sections))
        return path

    return write
