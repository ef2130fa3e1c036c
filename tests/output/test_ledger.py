from dataclasses import replace

import pytest

from corm_batch.data.document import Document
from corm_batch.engine.request import MemoryStats
from corm_batch.errors import SourceError
from corm_batch.output.ledger import Ledger, read_results
from corm_batch.output.writer import PartWriter
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import TaskResult
from tests.output.test_writer import Freehold


@pytest.fixture
def commit(rows, tmp_path):
    """Commits one part of one run: ok rows, or failed ones where the answer is None."""

    def write(run_id, fingerprint="print-1", **answers):
        builder = replace(rows, run_id=run_id, fingerprint=fingerprint)
        writer = PartWriter(OutputSection(uri=str(tmp_path)), builder, Freehold())
        for doc_id, answer in answers.items():
            document, memory = Document(doc_id, f"text of {doc_id}"), MemoryStats(kv_bytes_full=len(run_id))
            if answer is None:
                writer.add(builder.failed(document, "DocumentError", "no"))
            else:
                writer.add(builder.answered(document, TaskResult(answer), memory))
        writer.commit()

    return write


def states(output, fingerprint="print-1"):
    ledger = Ledger.read(str(output), fingerprint)
    return {name: ledger.state(Document(name, f"text of {name}")) for name in "abc"}


def test_empty_output(tmp_path):
    assert states(tmp_path) == {"a": "new", "b": "new", "c": "new"}
    assert read_results(str(tmp_path)).num_rows == 0


def test_what_is_done(commit, tmp_path):
    commit("run-1", a="fine", b=None)
    assert states(tmp_path) == {"a": "ok", "b": "failed", "c": "new"}
    ledger = Ledger.read(str(tmp_path), "print-1")
    assert ledger.state(Document("a", "changed text")) == "new"
    assert ledger.state(Document("a", "text of a", {"question": "?"})) == "new"
    assert states(tmp_path, "print-2")["a"] == "new"


def test_newest_row_counts(commit, tmp_path):
    commit("run-1", a="first", b=None)
    commit("run-2", b="second try", c="new")
    commit("run-3", fingerprint="print-2", a="other prompt")
    assert states(tmp_path) == {"a": "new", "b": "ok", "c": "ok"}
    assert states(tmp_path, "print-2")["a"] == "ok"
    table = read_results(str(tmp_path), memory=True)
    assert {row["doc_id"]: row["output"] for row in table.to_pylist()} == {
        "a": "other prompt",
        "b": "second try",
        "c": "new",
    }
    assert table["kv_bytes_full"].to_pylist() == [5, 5, 5]


def test_memory_part_without_its_results_belongs_to_nobody(commit, tmp_path):
    commit("run-1", a="first")
    commit("run-22", a="second")
    next((tmp_path / "results").glob("part-run-22*")).unlink()
    (row,) = read_results(str(tmp_path), memory=True).to_pylist()
    assert (row["output"], row["kv_bytes_full"]) == ("first", 5)


def test_results_whose_memory_part_is_gone_are_still_read(commit, tmp_path):
    commit("run-1", a="first")
    commit("run-2", b="second")
    next((tmp_path / "memory").glob("part-run-1*")).unlink()
    rows = {row["doc_id"]: row for row in read_results(str(tmp_path), memory=True).to_pylist()}
    assert (rows["a"]["output"], rows["a"]["kv_bytes_full"], rows["b"]["kv_bytes_full"]) == ("first", None, 5)


def test_foreign_file_among_the_parts_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "part-x.parquet").write_bytes(b"not parquet")
    with pytest.raises(SourceError, match=r"part-x\.parquet"):
        Ledger.read(str(tmp_path), "print-1")
