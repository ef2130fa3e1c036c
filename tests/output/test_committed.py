"""Committed: the newest row of every document and the time of every part."""

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.newest_rows import read_results
from corm_batch.errors import SourceError
from corm_batch.output.committed import EXCERPT, read_answers, read_committed
from corm_batch.output.run_records import RunRecord
from tests.outputs import RUN, START, answered, commit, failed


def test_nothing_there(tmp_path):
    assert read_committed(str(tmp_path)) is None


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_the_newest_row_of_every_document_with_its_own_memory(tmp_path, part_format):
    commit(tmp_path, [answered("a", kept_ratio=0.9), answered("b"), failed("c")], part_format=part_format)
    later = {"run_id": "20261123T020000Z-bbbbbb", "after_s": 90_000, "part_format": part_format}
    commit(tmp_path, [answered("c", kept_ratio=0.3), answered("a", kept_ratio=0.4)], **later)
    found = read_committed(str(tmp_path))
    kept = dict(zip(found.rows["doc_id"].to_pylist(), found.rows["kept_ratio"].to_pylist(), strict=True))
    assert kept == {"b": 0.2, "c": 0.3, "a": 0.4}
    assert [(part.run_id[:8], part.documents, part.tokens) for part in found.commits] == [
        ("20261122", 3, 3030),
        ("20261123", 2, 2020),
    ]
    assert found.commits[0].at == START + timedelta(seconds=60)


def test_it_agrees_with_the_results_that_anybody_reads(tmp_path):
    commit(tmp_path, [answered("a"), failed("b"), answered("c")])
    commit(tmp_path, [answered("b", kept_ratio=0.7)], number=1)
    rows, results = read_committed(str(tmp_path)).rows, read_results(str(tmp_path), memory=True)
    names = [name for name in rows.column_names if name in results.column_names]
    assert len(names) == rows.num_columns
    assert rows.select(names).sort_by("doc_id").to_pylist() == results.select(names).sort_by("doc_id").to_pylist()


def test_answers_are_cut_and_digested_only_when_asked_for(tmp_path):
    commit(tmp_path, [answered("a", output="x" * 500 + "1"), answered("b", output="x" * 500 + "2"), failed("c")])
    assert "answer" not in read_committed(str(tmp_path)).rows.column_names
    rows = read_committed(str(tmp_path), answers=True).rows.to_pylist()
    assert [row["answer"] for row in rows] == ["x" * EXCERPT, "x" * EXCERPT, None]
    assert rows[0]["answer_digest"] != rows[1]["answer_digest"]
    assert rows[2]["answer_digest"] is None


def test_rows_without_memory_and_memory_without_rows(tmp_path):
    commit(tmp_path, [answered("a")])
    commit(tmp_path, [answered("b")], number=1)
    (tmp_path / f"memory/part-{RUN}-000000.parquet").unlink()
    (tmp_path / f"results/part-{RUN}-000001.parquet").unlink()
    rows = read_committed(str(tmp_path)).rows.to_pylist()
    assert [(row["doc_id"], row["status"], row["kept_ratio"]) for row in rows] == [("a", "ok", None)]


def test_records_of_runs(tmp_path):
    commit(tmp_path, [answered("a")])
    runs = tmp_path / "_job/runs"
    runs.mkdir(parents=True)
    files = [{"uri": "a.jsonl.gz", "error": "ends early"}]
    for name, ok, more in (
        ("r1", 3, {}),
        ("r2", 0, {"failed_files": files, "selection": "a few", "gpu_s": 9.0, "price_per_gpu_hour": 2}),
    ):
        (runs / f"{name}.json").write_text(json.dumps({"ok": ok, "failed": 2, "seconds": 5.0} | more))
    assert read_committed(str(tmp_path)).records == (
        RunRecord("r1", 5, 5.0, ok=3),
        RunRecord("r2", 2, 5.0, (("a.jsonl.gz", "ends early"),), "a few", 9.0, 2.0),
    )


def test_who_wrote_the_rows(tmp_path):
    for number, (name, window) in enumerate((("first", 64), ("second", 128), ("first", 64))):
        spec = f"{{model: {{name: m}}, policy: {{window: {window}}}}}"
        metadata = {"corm_batch.job": name, "corm_batch.spec": spec, "corm_batch.model_hash": "h"}
        rows = [answered("a"), answered("b")] if name == "second" else [answered(str(number))]
        commit(tmp_path, rows, number=number, metadata=metadata)
    commit(tmp_path, [answered("b")], number=3)
    jobs = read_committed(str(tmp_path)).jobs
    assert [(job.name, job.documents) for job in jobs] == [("first", 2), ("second", 1), ("-", 1)]
    assert jobs[0].settings == {"model": {"name": "m", "hash": "h"}, "policy": {"window": 64}, "versions": {}}
    assert jobs[2].settings == {}


def test_columns_that_an_earlier_version_did_not_write_are_null(tmp_path):
    commit(tmp_path, [answered("a", elapsed_s=3.0)])
    path = next((tmp_path / "results").iterdir())
    pq.write_table(pq.read_table(path).drop_columns(["elapsed_s"]), path)
    assert read_committed(str(tmp_path)).rows["elapsed_s"].to_pylist() == [None]


def test_answers_of_some_documents(tmp_path):
    commit(tmp_path, [answered("a"), answered("b", output="old"), failed("c", output="half an ans")])
    commit(tmp_path, [answered("b", output="x" * 50), answered("d", output=None)], number=1)
    assert read_answers(str(tmp_path), ["b", "c", "d", "nobody"], 5) == {"b": "xxxxx", "c": "half "}


@pytest.mark.parametrize("content", ["{", "[]", '{"ok": null}'])
def test_a_broken_record_is_named(tmp_path, content):
    commit(tmp_path, [answered("a")])
    path = tmp_path / "_job/runs/1.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(SourceError, match=r"1\.json: no record of a run"):
        read_committed(str(tmp_path))


@pytest.mark.parametrize(
    "columns", [{"doc_id": ["a"]}, {name: ["a"] for name in answered("a") | {"run_id": 0, "committed_at": 0}}]
)
def test_a_part_of_something_else_is_named(tmp_path, columns):
    commit(tmp_path, [answered("a")])
    columns = columns if len(columns) == 1 else columns | {"error_type": ["a"], "error_message": ["a"]}
    pq.write_table(pa.table(columns), tmp_path / "results/part-z.parquet")
    with pytest.raises(SourceError, match=r"part-z\.parquet"):
        read_committed(str(tmp_path))
