"""Results as JSON, and engines beside each other."""

import pytest
from pydantic import ValidationError

from corm_batch.bench.result import BenchResult


def test_json_round_trip(make_result):
    result = make_result()
    assert BenchResult.model_validate_json(result.model_dump_json()) == result


def test_another_version_is_refused(make_result):
    text = make_result().model_dump_json().replace("corm-batch bench 1", "corm-batch bench 0")
    with pytest.raises(ValidationError, match="corm-batch bench 1"):
        BenchResult.model_validate_json(text)


def test_how_many_times_as_many_documents(make_result):
    result = make_result()
    assert [result.corm_over(row) for row in result.rows] == [1.0, 2.0, None]
    alone = make_result(rows=result.rows[1:])
    assert alone.corm_over(alone.rows[0]) is None
