"""A job from Python: documents in, two tables out, through run_job."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from corm_batch import run
from corm_batch.data.selection import Selection
from corm_batch.errors import SpecError
from corm_batch.pipeline import in_python
from corm_batch.pipeline.progress import JobSummary
from corm_batch.spec import JobSpec
from tests.fakes import MODEL, scripted
from tests.outputs import answered, commit

SPEC = {
    "model": {"name": MODEL, "dtype": "float32", "document_role": "document"},
    "task": {"name": "summarize", "max_new_tokens": 8},
    "policy": {"name": "full"},
}
EMPTY = [{"doc_id": name, "text": ""} for name in "bac"]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where outputs without a name go."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_failed_rows_come_back_as_they_lay_and_nothing_is_left(tmp_path):
    found = run(SPEC, documents=EMPTY, load_model=scripted())
    assert found.results["doc_id"].to_pylist() == ["b", "a", "c"]
    assert found.results["_source_row"].to_pylist() == [0, 1, 2]
    assert set(found.results["error_message"].to_pylist()) == {
        f"documents#{place}: column 'text' is empty" for place in range(3)
    }
    assert found.memory["doc_id"].to_pylist() == ["b", "a", "c"]
    assert "kv_bytes_peak" in found.memory.column_names
    assert "kv_bytes_peak" not in found.results.column_names
    assert (found.summary.failed, found.summary.total) == (3, 3)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_with_an_output_a_later_run_goes_on(tmp_path):
    spec = {**SPEC, "name": "mine", "output": {"uri": str(tmp_path / "out"), "columns": ["doc_id_too"]}}
    documents = [{**row, "doc_id_too": row["doc_id"]} for row in EMPTY]
    first = run(spec, documents=iter(documents), selection=Selection(2), load_model=scripted())
    assert (first.summary.failed, first.results["doc_id_too"].to_pylist()) == (2, ["b", "a"])
    again = run(spec, documents=pa.Table.from_pylist(documents), load_model=scripted())
    assert (again.summary.failed, again.summary.skipped, again.results.num_rows) == (1, 2, 3)
    for given in (iter(documents), dict(enumerate(documents)).values(), documents):
        drawn = run(SPEC, documents=given, selection=Selection(2, seed=0), load_model=scripted())
        assert drawn.results.num_rows == 2
    assert (tmp_path / "out/_job/spec.yaml").is_file()


def test_a_kept_output_gives_back_what_was_given_in_its_order(tmp_path):
    spec = {**SPEC, "name": "mine", "output": {"uri": str(tmp_path / "out")}}
    run(spec, documents=EMPTY, load_model=scripted())
    again = [{"doc_id": name, "text": ""} for name in "cnac"] + [{"text": ""}]
    for documents in (again, pa.Table.from_pylist(again)):
        found = run(spec, documents=documents, load_model=scripted())
        assert found.results["doc_id"].to_pylist() == ["c", "n", "a", "documents#3", "documents#4"]
        assert found.memory["doc_id"].to_pylist() == found.results["doc_id"].to_pylist()
        message = found.results["error_message"].to_pylist()[-1]
        assert message.startswith("documents#4: column 'doc_id' holds no usable id")
    assert found.summary.skipped == 5


def test_a_file_and_a_whole_spec_serve_as_well(tmp_path):
    path = tmp_path / "job.yaml"
    source = {"name": "parquet", "uri": "s3://nowhere/", "text_column": "body"}
    spec = {**SPEC, "name": "job", "source": source, "output": {"uri": str(tmp_path / "out")}}
    path.write_text(yaml.safe_dump(spec))
    for given in (path, str(path), JobSpec.load(str(path))):
        found = run(given, documents=[{"body": "", "doc_id": "x"}], load_model=scripted(), retry_failed=True)
        assert found.results["doc_id"].to_pylist() == ["x"]


def test_the_tables_are_those_of_the_committed_rows(monkeypatch):
    def run_job(spec, **options):
        documents = [one for split in spec.splits() for one in spec.source.read(split, ())]
        for one in documents:
            options["on_document"](one.doc_id)
        commit(spec.output.uri, [answered(one.doc_id, output=one.text.upper()) for one in reversed(documents)])
        return JobSummary(ok=len(documents))

    monkeypatch.setattr(in_python, "run_job", run_job)
    found = run(SPEC, documents=({"doc_id": name, "text": name} for name in "xyz"))
    assert found.results.select(["doc_id", "output"]).sort_by("doc_id").to_pylist() == [
        {"doc_id": name, "output": name.upper()} for name in "xyz"
    ]
    assert sum(found.memory["kv_bytes_peak"].to_pylist()) > 0


@pytest.mark.parametrize(
    ("spec", "documents", "problem"),
    [
        ([1], EMPTY, "expected sections"),
        ("no-such.yaml", EMPTY, "no-such.yaml: cannot read the spec"),
        (SPEC, 7, "documents: expected an Arrow table"),
        (SPEC, None, "source: Field required"),
        ({**SPEC, "source": "docs"}, EMPTY, "source: expected a mapping, got 'docs'"),
        ({**SPEC, "source": {"text_colum": "a"}}, EMPTY, r"source\.text_colum: unknown key; .* id_column, text_column"),
        ({**SPEC, "tsk": 1}, EMPTY, "tsk: unknown key"),
        (SPEC, [{"txt": "x"}], "one column 'text' is wanted"),
        (
            {**SPEC, "output": {"uri": "out"}},
            [{"text": "x"}],
            "one column 'doc_id' is wanted for ids, as another",
        ),
    ],
)
def test_what_is_wrong_is_said(spec, documents, problem, tmp_path):
    with pytest.raises(SpecError, match=problem):
        run(spec, documents=documents, load_model=scripted())
    assert list(Path(tmp_path, "temporary").iterdir()) == []


@pytest.mark.usefixtures("without_a_cluster")
def test_documents_are_answered_by_the_same_job():
    documents = pa.table({"doc_id": ["b", "a"], "text": ["The cat sat.", "A dog ran."], "n": [1, 2]})
    spec = {**SPEC, "task": {**SPEC["task"], "row_values": {"max_new_tokens": "n"}}}
    found = run(spec, documents=documents, load_model=scripted())
    assert found.results["status"].to_pylist() == ["ok", "ok"]
    assert found.results["output_tokens"].to_pylist() == [1, 2]
    assert found.memory["output_tokens"].to_pylist() == [1, 2]
    assert all(found.memory["kv_bytes_peak"].to_pylist())
    assert found.summary.ok == 2
