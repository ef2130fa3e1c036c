"""The path of infra/measure/nightly.py and infra/measure/driver.py, small: what changed is answered, nothing else."""

import json

import pyarrow.csv

from corm_batch.data.newest_rows import read_results
from corm_batch.pipeline.driver import run_job
from infra.measure.driver import CARRIED, export, resume
from infra.measure.no_op_job import commit_history, load_no_op, no_op_spec, write_archive
from tests.pipeline.conftest import without_a_cluster

__all__ = ["without_a_cluster"]


def test_a_night_answers_the_ten_that_changed_and_the_next_one_nothing(without_a_cluster, tmp_path):
    spec = no_op_spec(tmp_path)
    write_archive(tmp_path, 5010)
    commit_history(spec, 5010)
    assert resume(tmp_path, {}) == {"done": 5010}
    write_archive(tmp_path, 5010, changed=10)
    summary = run_job(spec, load_model=load_no_op)
    assert (summary.ok, summary.failed, summary.skipped) == (10, 0, 5000)
    newest = read_results(spec.output.uri)
    assert newest.num_rows == 5010
    changed = [row["doc_id"] for row in newest.to_pylist() if row["run_id"] == summary.run_id]
    assert sorted(changed) == [f"document-{number:09d}" for number in range(10)]
    assert run_job(spec, load_model=load_no_op).skipped == 5010


def test_rows_that_carry_columns_stand_and_are_exported_in_the_order_of_the_source(tmp_path):
    write_archive(tmp_path, 2010, columns=True)
    commit_history(no_op_spec(tmp_path, **CARRIED), 2010)
    assert resume(tmp_path, CARRIED) == {"done": 2010}
    assert export(tmp_path, CARRIED, "csv")["rows"] == 2010
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "out/results.csv").read_bytes()
    rows = pyarrow.csv.read_csv(tmp_path / "rows.csv")
    assert rows["doc_id"].to_pylist() == [f"document-{number:09d}" for number in range(2010)]
    assert rows["url"][9].as_py() == "https://example.org/archive/000000009.html"
    meta = {"title": "Number 9", "tags": ["tag-2", "archive", "a longer tag that many share"]}
    assert json.loads(rows["meta"][9].as_py()) == meta
