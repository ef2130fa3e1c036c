"""corm-batch convert."""

import json

import pytest

WEIGHTS = "{name: kv_heads, num_kv_heads: 1, num_texts: 2, num_tokens: 64}"


@pytest.fixture
def job(tiny_job):
    return tiny_job({"river": "The river. " * 40, "blank": " ", "boat": "A boat.", "no": "No."})


def test_a_job_runs_the_new_model(corm_batch, job, tmp_path):
    folder = tmp_path / "one"
    given = ("convert", job, "--weights", WEIGHTS, "--license", "CC0-1.0", "--output", str(folder))
    result = corm_batch(*given)
    assert result.code == 0
    assert "kv_heads, from 2 texts of " in result.out
    assert "needs calibration, fine-tuning" in result.out
    record = json.loads((folder / "conversion.json").read_text())
    assert record["texts"]["texts"] == 2  # the blank document is none
    assert 64 < record["texts"]["tokens"] < 128
    assert json.loads((folder / "config.json").read_text())["num_key_value_heads"] == 1
    again = corm_batch(*given)
    assert again.code == 2
    assert "is there already" in again.err


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("{name: kv_heads}", "weights.num_kv_heads: Field required"),
        ("svd", "weights.name: no weights is called 'svd'"),
        ("{name: kv_heads, num_kv_heads: 4}", "weights.num_kv_heads: got 4, the model has 2: allowed are 1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_loaded(corm_batch, job, tmp_path, weights, told):
    result = corm_batch("convert", job, "--weights", weights, "--license", "x", "--output", str(tmp_path / "new"))
    assert result.code == 2
    assert told in result.err
    assert not (tmp_path / "new").exists()
