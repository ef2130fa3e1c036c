"""The path of infra/measure/nightly.py and infra/measure/driver.py, small: what changed is answered, nothing else."""

from corm_batch.data.newest_rows import read_results
from corm_batch.pipeline.driver import run_job
from infra.measure.driver import resume
from infra.measure.no_op_job import commit_history, load_no_op, no_op_spec, write_archive
from tests.pipeline.conftest import without_a_cluster

__all__ = ["without_a_cluster"]


def test_a_night_answers_the_ten_that_changed_and_the_next_one_nothing(without_a_cluster, tmp_path):
    spec = no_op_spec(tmp_path)
    write_archive(tmp_path, 5010)
    commit_history(spec, 5010)
    assert resume(tmp_path, {}) == {"ok": 5010}
    write_archive(tmp_path, 5010, changed=10)
    assert resume(tmp_path, {}) == {"ok": 5000, "todo": 10}
    summary = run_job(spec, load_model=load_no_op)
    assert (summary.ok, summary.failed, summary.skipped) == (10, 0, 5000)
    newest = read_results(spec.output.uri)
    assert newest.num_rows == 5010
    changed = [row["doc_id"] for row in newest.to_pylist() if row["run_id"] == summary.run_id]
    assert sorted(changed) == [f"document-{number:09d}" for number in range(10)]
    assert run_job(spec, load_model=load_no_op).skipped == 5010
