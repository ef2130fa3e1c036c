"""Summaries are scored beside those that people wrote, task by task."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.evaluation.base import Suite


def test_the_first_documents_of_each_task_and_the_scores_of_a_summary(tmp_path, tokenizer):
    rows = [
        {"task": task, "document": f"{task} {i}", "prompt": "Sum up.", "answers": ["a cat sat down", "the cat"]}
        for i in range(3)
        for task in ("paper", "visit")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "summaries.parquet")
    suite = Suite.from_spec({"name": "summaries", "documents": str(tmp_path / "summaries.parquet")})
    cases = list(suite.cases(tokenizer, [], 2))
    assert [case.task for case in cases] == ["paper", "visit", "paper", "visit"]
    assert suite.score(cases[0], "The cat sat.") == {"rouge_l": pytest.approx(0.8), "words": 3, "degenerate": 0}
    assert suite.score(cases[0], "a b c d " * 3)["degenerate"] == 1
    assert suite.shares == ("degenerate",)
