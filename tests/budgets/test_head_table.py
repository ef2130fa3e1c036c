"""Tables of head scores: in a spec, or in a file it names."""

from __future__ import annotations

import json
import pickle

import pytest

from corm_batch.budgets.base import Budget
from corm_batch.budgets.head_table import by_kv_head
from corm_batch.budgets.measured import measured_values
from corm_batch.errors import SpecError

SCORES = [[1.0, 0.5], [0.0, 2.0]]


def test_a_file_stands_for_the_scores_in_it(tmp_path):
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"model": "m", "scores": SCORES}))
    budget = Budget.from_spec({"name": "headkv", "scores": str(file)})
    assert budget == Budget.from_spec({"name": "headkv", "scores": SCORES})
    ((path, scores),) = measured_values(budget, "policy.budget")
    assert (path, scores.model, scores.weights_sha256) == ("policy.budget.scores", "m", None)
    assert pickle.loads(pickle.dumps(budget)).scores.origin == str(file)
    file.unlink()  # the spec goes on without it
    assert Budget.from_spec(budget.to_spec()) == budget


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no head table there: No such file"),
        ("{", "it is no JSON"),
        ("[1]", 'it has no "scores"'),
        ("[" * 100_000, "it is no JSON: maximum recursion depth"),
        ('{"scores": [[1.0]], "scores": [[2.0]]}', "'scores' is there twice"),
        ('{"scores": 3}', 'it has no "scores"'),
        ('{"scores": [["x"]]}', "scores.0.0"),
        ('{"scores": [[1.0, -1.0]]}', "from 0 on"),
        ('{"scores": [[0.0]]}', "not all of them 0"),
        ('{"scores": [[NaN, 1.0]]}', "from 0 on"),
        ('{"scores": []}', "scores"),
    ],
)
def test_what_is_no_table_is_refused(content, message, tmp_path):
    file = tmp_path / "table.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SpecError, match=message):
        Budget.from_spec({"name": "headkv", "scores": str(file)})


def test_of_a_group_of_query_heads_the_highest_counts():
    scores = ((1.0, 0.5, 0.2, 3.0), (0.0, 2.0, 0.1, 0.0))
    assert by_kv_head(scores, 2, 2, "x") == [[1.0, 3.0], [2.0, 0.1]]
    assert by_kv_head(scores, 2, 4, "x") == [list(row) for row in scores]
    with pytest.raises(SpecError, match="x: 2 layers, the model has 3"):
        by_kv_head(scores, 3, 2, "x")
    with pytest.raises(SpecError, match="x: 4 heads in a layer; the model has 3 kv heads"):
        by_kv_head(scores, 2, 3, "x")
