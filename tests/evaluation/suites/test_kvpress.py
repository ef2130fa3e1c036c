"""kvpress' tables: the answer's beginning is given, and the share of the answers that the text contains counts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.asking import lay_out
from corm_batch.evaluation.base import Suite

ROW = {
    "context": "One of the special magic numbers for a is: 12. Another is: 34.", "question": "What are they?",
    "answer_prefix": "The numbers are", "answer": ["12", "34"], "max_new_tokens": 20, "task": "niah_multivalue",
}  # fmt: skip


@pytest.fixture
def suite(tmp_path):
    def make(rows, **fields):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        return Suite.from_spec({"name": "kvpress", "uri": str(tmp_path / "t.parquet")} | fields)

    return make


def test_the_prompt_ends_with_the_answers_beginning(suite, chat):
    (asked,) = lay_out({"k": suite([ROW, ROW])}, chat, [], 1)
    assert chat.spelled(asked.prompt).endswith("What are they?<|answer|>The numbers are")
    assert (asked.case.task, asked.case.max_new_tokens) == ("niah_multivalue", 20)
    assert asked.suite.score(asked.case, "12 and 13") == {"contained": 0.5}


def test_another_metric_and_a_single_answer(suite, tokenizer):
    one = suite([{**ROW, "answer": "Oslo", "task": None}], metric="exact")
    (case,) = one.cases(tokenizer, [], 1)
    assert (case.task, case.answers) == ("kvpress", ("Oslo",))
    assert one.score(case, "Oslo") == {"exact": 1.0}


def test_a_number_of_tokens_that_is_none_is_refused(suite, tokenizer):
    with pytest.raises(SourceError, match="row 0: max_new_tokens: expected a whole number above 0, got 0"):
        next(suite([{**ROW, "max_new_tokens": 0}]).cases(tokenizer, [], 1))
