"""Several rows of one document: written together, counted as one document, newest together."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.data.document import Document
from corm_batch.data.exploded import newest_of
from corm_batch.data.newest_rows import read_results
from corm_batch.data.schema import result_schema
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import AnswerError
from corm_batch.output.committed import read_answers, read_committed
from corm_batch.output.ledger import Ledger
from corm_batch.output.transcript import Transcript
from corm_batch.output.writer import PartWriter
from corm_batch.report.job_report import build_report
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import TaskResult
from corm_batch.tasks.question_answer import QuestionAnswer
from tests.output.test_ledger import told
from tests.output.test_writer import Freehold

TASK = QuestionAnswer(questions=["Who?", "When?"], rows="question")
COST = MemoryStats(prompt_tokens=100, output_tokens=7, kv_bytes_full=1000, kv_bytes_peak=400)


@pytest.fixture
def commit(rows, tmp_path):
    """Commits a part of documents, each given as its answers, some of them None; None for one that failed whole."""

    def write(run_id, part_format="parquet", **documents):
        schema = result_schema(TASK.result_fields, {})
        builder = replace(rows, run_id=run_id, result_schema=schema, exploded=TASK.exploded)
        writer = PartWriter(OutputSection(uri=str(tmp_path), format=part_format), builder, Freehold())
        for doc_id, answers in documents.items():
            document = Document(doc_id, f"text of {doc_id}")
            if answers is None:
                writer.add(builder.failed(document, "DocumentError", "late", COST))
                continue
            count = len(answers)
            columns = {
                "questions": [f"Question {number}?" for number in range(count)],
                "answers": list(answers),
                "mean_logprobs": [None if one is None else -1.0 for one in answers],
                "finish_reasons": [None if one is None else "stop" for one in answers],
            }
            failed = {f"answers[{place}]": f"no end of {place}" for place, one in enumerate(answers) if one is None}
            if len(failed) == count:
                error = AnswerError("no end", columns=columns)
                writer.add(builder.unusable(document, error, COST, Transcript(answers=["thinking"])))
            else:
                writer.add(builder.answered(document, TaskResult("[...]", columns, "stop", count, failed), COST))
        writer.commit()

    return write


def test_each_question_has_its_row_and_the_first_has_what_the_document_took(commit, tmp_path):
    commit("run-1", a=["Ada", None, "Ulm"], b=None, c=[None])
    table = read_results(tmp_path, memory=True)
    rows = table.to_pylist()
    assert [(row["doc_id"], row["question_number"], row["output"], row["status"]) for row in rows] == [
        ("a", 0, "Ada", "ok"),
        ("a", 1, None, "failed"),
        ("a", 2, "Ulm", "ok"),
        ("b", None, None, "failed"),
        ("c", 0, "thinking", "failed"),
    ]
    assert [row["question"] for row in rows] == ["Question 0?", "Question 1?", "Question 2?", None, "Question 0?"]
    assert (rows[1]["error_type"], rows[1]["error_message"]) == ("DocumentError", "no end of 1")
    assert (rows[4]["error_type"], rows[4]["error_message"]) == ("AnswerError", "no end")
    assert [row["prompt_tokens"] for row in rows] == [100, None, None, 100, 100]
    assert [row["kv_bytes_full"] for row in rows] == [1000, None, None, 1000, 1000]
    assert table.schema.field("mean_logprob").type == pa.float64()


def test_documents_are_counted_once_and_answered_when_a_question_is(commit, tmp_path):
    commit("run-1", a=["Ada", None, "Ulm"], b=None, c=[None, None], d=["x", "y"])
    committed = read_committed(str(tmp_path), answers=True)
    found = {row["doc_id"]: row for row in committed.rows.to_pylist()}
    assert {name: (row["status"], row["failed_fields"]) for name, row in found.items()} == {
        "a": ("ok", 1),
        "b": ("failed", None),
        "c": ("failed", None),
        "d": ("ok", None),
    }
    assert (found["a"]["answer"], found["a"]["error_message"], found["d"]["answer"]) == ("Ada\nUlm", None, "x\ny")
    assert committed.commits[0].documents == 4
    report = build_report(committed)
    assert (report.documents, report.ok, report.failed, report.with_failed_fields) == (4, 2, 2, 1)
    assert (report.prompt_tokens, report.kv_bytes_full) == (400, 2000)
    assert read_answers(str(tmp_path), ["a", "c"], 5) == {"a": "Ada\nU", "c": "think"}


@pytest.mark.parametrize("part_format", ["parquet", "arrow"])
def test_a_document_that_is_answered_again_leaves_no_row_behind(part_format, commit, tmp_path):
    commit("run-1", part_format, a=["1", "2", "3"], b=["4", None], c=["5"], d=[None, None])
    commit("run-2", part_format, a=["6"], c=["7", "8"])
    rows = read_results(tmp_path).sort_by([("doc_id", "ascending"), ("question_number", "ascending")]).to_pylist()
    assert [(row["doc_id"], row["output"]) for row in rows] == [
        ("a", "6"), ("b", "4"), ("b", None), ("c", "7"), ("c", "8"), ("d", "thinking"), ("d", None),
    ]  # fmt: skip
    ledger = Ledger.read(str(tmp_path), told("print-1"), "job")
    states = {name: ledger.state(Document(name, f"text of {name}")) for name in "abcde"}
    assert states == {"a": "ok", "b": "ok", "c": "ok", "d": "failed", "e": "new"}
    commit("run-3", part_format, b=None)
    assert Ledger.read(str(tmp_path), told("print-1"), "job").state(Document("b", "text of b")) == "failed"
    assert [row["doc_id"] for row in read_results(tmp_path).to_pylist()].count("b") == 1


def test_parts_that_somebody_put_together_still_tell_the_newest(commit, tmp_path):
    commit("run-1", a=["1", "2", "3"], b=["4"])
    commit("run-2", a=["5", "6"])
    first, second = sorted((tmp_path / "results").iterdir())
    pq.write_table(pa.concat_tables([pq.read_table(first), pq.read_table(second)]), second)
    first.unlink()
    assert [row["output"] for row in read_results(tmp_path).to_pylist()] == ["4", "5", "6"]
    assert [row["answer"] for row in read_committed(str(tmp_path), answers=True).rows.to_pylist()] == ["4", "5\n6"]


def test_rows_of_documents_and_of_questions_lie_side_by_side(commit, rows, tmp_path):
    writer = PartWriter(OutputSection(uri=str(tmp_path)), replace(rows, run_id="run-0"), Freehold())
    writer.add(rows.answered(Document("a", "text of a"), TaskResult("whole"), COST))
    writer.add(rows.answered(Document("z", "text of z"), TaskResult("kept"), COST))
    writer.commit()
    commit("run-1", a=["Ada", "1852"])
    found = read_results(tmp_path).to_pylist()
    assert [(row["doc_id"], row["question_number"], row["output"]) for row in found] == [
        ("z", None, "kept"), ("a", 0, "Ada"), ("a", 1, "1852"),
    ]  # fmt: skip


def test_newest_is_what_was_written_of_a_document_last_and_nothing_of_one_that_does_not_begin():
    written = [("a", 0), ("a", 1), ("b", None), ("c", 1), ("a", 0), ("a", 1), ("b", None), ("d", None)]
    names, numbers = zip(*written, strict=True)
    ids = pa.table({"doc_id": pa.chunked_array([names[:3], names[3:]]), "question_number": pa.array(numbers)})
    assert newest_of(ids).nonzero()[0].tolist() == [4, 5, 6, 7]
