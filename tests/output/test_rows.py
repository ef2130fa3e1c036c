import pyarrow as pa
import pytest

from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import AnswerError
from corm_batch.output.transcript import Transcript
from corm_batch.tasks.base import TaskResult


def stored(rows, row):
    """The two rows as a part holds them."""
    results = pa.Table.from_pylist([{**row.result, "committed_at": 0}], schema=rows.result_schema)
    return results.to_pylist()[0], pa.Table.from_pylist([row.memory], schema=rows.memory_schema).to_pylist()[0]


def test_answered_row(rows):
    memory = MemoryStats(prompt_tokens=5, output_tokens=2, kv_bytes_full=100, kept_per_layer=(1, 2), queue_s=0.5)
    row = rows.with_constants(actor="host:1").answered(Document("a", "text"), TaskResult("out", {"score": 7}), memory)
    result, figures = stored(rows, row)
    assert row.ok
    assert (result["output"], result["score"], result["prompt_tokens"], result["queue_s"]) == ("out", 7, 5, 0.5)
    assert (result["run_id"], result["fingerprint"], result["error_type"]) == ("run-1", "print-1", None)
    assert (figures["doc_id"], figures["run_id"], figures["kept_per_layer"]) == ("a", "run-1", [1, 2])
    assert (figures["policy"], figures["actor"]) == ("{}", "host:1")


def test_failed_row_has_the_same_columns(rows):
    row = rows.failed(Document("a", None), "DocumentError", "no text")
    result, figures = stored(rows, row)
    assert not row.ok
    assert (result["status"], result["error_message"], result["output"]) == ("failed", "no text", None)
    assert figures["kv_bytes_full"] is None


def test_text_that_utf8_cannot_hold_is_replaced(rows):
    result, _ = stored(rows, rows.failed(Document("a\ud800", None), "ValueError", "bad \udfff character"))
    assert (result["doc_id"], result["error_message"]) == ("a\ufffd", "bad \ufffd character")


def test_failure_without_a_message_says_its_type(rows):
    assert rows.failed(Document("a", None), "KeyError", "").result["error_message"] == "KeyError"


@pytest.mark.parametrize("value", ["seven", 2**70, {"a": 1}])
def test_column_of_another_type_than_declared_fails_the_document(rows, value):
    with pytest.raises(AnswerError, match="cannot be stored"):
        rows.answered(Document("a", "text"), TaskResult("out", {"score": value}), MemoryStats())


def transcript(*answers, truncated=False):
    said = Transcript(truncated=truncated)
    for number, answer in enumerate(answers):
        said.add(answer, "", "length" if number == 0 else "stop", (1, 2) * 20 if number == 0 else (1, 2, 3))
    return said


def test_answered_row_is_marked(rows):
    said = Transcript(truncated=True)
    said.add("<think>hm</think>out", "hm", "stop", (1, 2, 3, 4, 5))
    result, _ = stored(rows, rows.answered(Document("a", "text"), TaskResult("out"), MemoryStats(), said))
    assert (result["truncated"], result["repetition"], result["reasoning_content"]) == (True, 0.0, "hm")
    assert result["failed_fields"] is None
    partly = TaskResult("out", {"score": None}, failed_fields={"score": "no number: \ud800"})
    result, _ = stored(rows, rows.answered(Document("a", "text"), partly, MemoryStats()))
    assert result["failed_fields"] == [{"field": "score", "reason": "no number: \ufffd"}]
    assert (result["truncated"], result["reasoning_content"]) == (False, None)


def test_failed_row_keeps_everything_the_model_wrote(rows):
    said = transcript("first", "sec\ud800nd", truncated=True)
    row = rows.failed(Document("a", "text"), "ValueError", "bad", MemoryStats(), said)
    result, _ = stored(rows, row)
    assert (result["status"], result["output"]) == ("failed", "first\n\nsec\ufffdnd")
    assert (result["finish_reason"], result["pieces"], result["truncated"]) == ("length", 2, True)
    assert result["repetition"] > 0.9


def test_failed_row_of_an_unusable_answer_keeps_what_of_it_is_right(rows):
    document, said = Document("a", "text"), transcript("all of it")
    error = AnswerError("no title", output="the answer", columns={"score": 7})
    result, _ = stored(rows, rows.unusable(document, error, MemoryStats(), said))
    assert (result["status"], result["error_type"], result["error_message"]) == ("failed", "AnswerError", "no title")
    assert (result["output"], result["score"]) == ("the answer", 7)
    result, _ = stored(rows, rows.unusable(document, AnswerError("no", columns={"score": "x"}), None, said))
    assert (result["output"], result["score"]) == ("all of it", None)
