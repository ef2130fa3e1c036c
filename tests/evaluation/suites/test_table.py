"""Questions of the user's own, in columns of any names."""

import pytest

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Suite
from tests.evaluation.suites.files import write_lines

ROWS = [
    {"body": "Noon.", "ask": "When?", "right": "noon", "kind": "time"},
    {"body": "Oslo.", "ask": "Where?", "right": ["Oslo", "In Oslo"], "kind": "place"},
    {"body": "Bern.", "ask": "Where?", "right": None, "kind": "place"},
    {"body": "1871.", "ask": "When?", "right": 1871, "kind": "time"},
]
COLUMNS = {"name": "table", "text": "body", "question": "ask", "expected": "right"}


@pytest.fixture
def uri(tmp_path):
    return write_lines(tmp_path / "mine.jsonl", ROWS)


def test_rows_that_expect_something_are_cases(uri, tokenizer):
    suite = Suite.from_spec(COLUMNS | {"uri": uri})
    cases = list(suite.cases(tokenizer, [], 5))
    assert [(case.document, case.question, case.answers) for case in cases] == [
        ("Noon.", "When?", ("noon",)), ("Oslo.", "Where?", ("Oslo", "In Oslo")), ("1871.", "When?", ("1871",))
    ]  # fmt: skip
    assert {(case.group, case.task, case.max_new_tokens) for case in cases} == {("table", "table", 64)}
    by_kind = Suite.from_spec(COLUMNS | {"uri": uri, "task": "kind", "max_new_tokens": 8})
    assert [case.task for case in by_kind.cases(tokenizer, [], 1)] == ["time", "place"]


@pytest.mark.parametrize(
    ("metric", "text", "score"),
    [("exact", " In Oslo ", 1), ("exact", "in Oslo", 0), ("contains", "It is oslo.", 1), ("contains", "Bern", 0),
     ("f1", "in the Oslo", 1), ("rouge_l", "Oslo now", pytest.approx(2 / 3))],
)  # fmt: skip
def test_an_answer_is_worth_what_the_metric_says(uri, tokenizer, metric, text, score):
    suite = Suite.from_spec(COLUMNS | {"uri": uri, "metric": metric})
    case = list(suite.cases(tokenizer, [], 5))[1]
    assert suite.score(case, text) == {metric: score}
    assert (metric in suite.shares) == (metric in ("exact", "contains"))


def test_what_is_wrong_is_said(uri, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"suite\.metric: Input should be 'exact', 'contains', 'f1' or 'rouge_l'"):
        Suite.from_spec(COLUMNS | {"uri": uri, "metric": "bleu"})
    with pytest.raises(SourceError, match=r"row 0: no column text, question; there are: body, ask, right, kind"):
        next(Suite.from_spec({"name": "table", "uri": uri, "expected": "right"}).cases(tokenizer, [], 1))
    empty = write_lines(tmp_path / "none.jsonl", [ROWS[2]])
    with pytest.raises(SourceError, match=r"none\.jsonl: no row expects anything in its column 'right'"):
        next(Suite.from_spec(COLUMNS | {"uri": empty}).cases(tokenizer, [], 1))
