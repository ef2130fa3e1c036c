import pytest

from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.output.transcript import Transcript
from corm_batch.pipeline.progress import Progress
from corm_batch.tasks.base import TaskResult


def test_counts_of_good_and_failed_rows(rows):
    progress = Progress(total=3)
    assert (progress.kept_ratio, progress.bytes_saved) == (1.0, 0)
    for full, kept in ((100, 0.5), (300, 0.1)):
        memory = MemoryStats(prompt_tokens=10, output_tokens=2, kv_bytes_full=full, kv_bytes_peak=50, kept_ratio=kept)
        progress = progress.with_row(rows.answered(Document("a", "text"), TaskResult("out"), memory))
    progress = progress.with_row(rows.failed(Document("b", None), "DocumentError", "no"))
    assert (progress.cut_off, progress.truncated, progress.looping, progress.with_failed_fields) == (0, 0, 0, 0)
    assert (progress.documents, progress.ok, progress.failed) == (3, 2, 1)
    assert (progress.prompt_tokens, progress.output_tokens) == (20, 4)
    assert progress.bytes_saved == 300
    assert progress.kept_ratio == pytest.approx((50 + 30) / 400)


def test_marks_of_good_and_failed_rows_are_counted(rows):
    transcript = Transcript(truncated=True)
    transcript.add("a b a b", "", "length", (1, 2) * 40)
    partly = TaskResult("out", finish_reason="length", failed_fields={"year": "no number"})
    progress = Progress()
    progress = progress.with_row(rows.answered(Document("a", "text"), partly, MemoryStats(), transcript))
    progress = progress.with_row(rows.failed(Document("b", "text"), "AnswerError", "no", MemoryStats(), transcript))
    progress = progress.with_row(rows.answered(Document("c", "text"), TaskResult("out"), MemoryStats()))
    assert (progress.cut_off, progress.truncated, progress.looping, progress.with_failed_fields) == (2, 2, 2, 1)
    assert (progress.ok, progress.failed) == (2, 1)
