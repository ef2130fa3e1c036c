"""corm-batch calibrate."""

import json

import pytest
import yaml

from corm_batch.cli import calibrate
from corm_batch.policies.base import KVPolicy
from tests.calibration.races import make_result

ROWS = [{"doc_id": "a", "text": "Nobody came to the river that year. " * 20}]


@pytest.fixture
def ran(monkeypatch):
    """What would be calibrated, and what it comes to."""
    found = {"result": make_result()}

    def run(job, asked, folder, started):
        found.update(job=job, asked=asked, folder=folder)
        if isinstance(found["result"], BaseException):
            raise found["result"]
        return found["result"]

    monkeypatch.setattr(calibrate, "_run", run)
    return found


def test_the_policy_is_printed_and_written_beside_what_it_promises(corm_batch, write_job, ran, tmp_path):
    spec = write_job(ROWS)
    before = spec.read_text()
    result = corm_batch("calibrate", spec, "--max-loss", "2%", "--minutes", "3", "--documents", "12")
    assert result.code == 0, result.err
    assert "snapkv pooled" in result.out
    assert "loses at most 0.70%, with 95 % confidence; 0.30% (-0.10%..0.70%) on 16 documents" in result.out
    assert "2 of 16 would have been answered otherwise; with 95 % confidence at most 34.4 % of all" in result.out
    folder = tmp_path / "out/_calibrate"
    assert yaml.safe_load((folder / "policy.yaml").read_text()) == {"policy": {"name": "snapkv", "pooling": 63}}
    assert (folder / "policy.yaml").read_text() in result.out
    assert json.loads((folder / "calibration.json").read_text())["chosen"] == "snapkv pooled"
    assert "corm-batch calibrate" in (folder / "calibration.html").read_text()
    assert spec.read_text() == before
    asked = ran["asked"]
    assert (asked.limit.text, asked.minutes, asked.documents, asked.registered) == ("2%", 3.0, 12, True)


def test_policies_given_are_tried_beside_the_jobs_own(corm_batch, write_job, ran, tmp_path):
    spec = write_job(ROWS, policy={"name": "corm", "tau": 4})
    options = (
        "--policy",
        "short={name: corm, window: 64}",
        "--policy",
        "full",
        "--only",
        "--output",
        tmp_path / "there",
    )
    assert corm_batch("calibrate", spec, *options).code == 0
    asked = ran["asked"]
    assert list(asked.policies) == ["corm tau=4.0", "short"]
    assert asked.policies["short"] == (
        KVPolicy.from_spec({"name": "corm", "window": 64}),
        {"name": "corm", "window": 64},
    )
    assert not asked.registered
    assert ran["folder"] == str(tmp_path / "there")


def test_write_puts_it_into_the_spec(corm_batch, write_job, ran):
    spec = write_job(ROWS, policy={"name": "corm"})
    spec.write_text("# mine\n" + spec.read_text())
    result = corm_batch("calibrate", spec, "--write", "--json")
    assert result.code == 0
    assert json.loads(result.out)["chosen"] == "snapkv pooled"
    assert yaml.safe_load(spec.read_text())["policy"] == {"name": "snapkv", "pooling": 63}
    assert spec.read_text().startswith("# mine\n")
    assert "# before:   name: corm" in spec.read_text() or "# before: policy:" in spec.read_text()


def test_where_nothing_meets_the_limit_nothing_is_written_and_the_best_is_named(corm_batch, write_job, ran, tmp_path):
    ran["result"] = make_result(chosen=None)
    spec = write_job(ROWS)
    before = spec.read_text()
    result = corm_batch("calibrate", spec, "--write")
    assert result.code == 5
    assert "no policy is shown to lose at most 1% (0.00995 nats a token)" in result.out
    assert "the best that was found: snapkv pooled" in result.out
    said = [line.strip() for line in result.out.splitlines()]
    assert "it is shown to meet --max-loss 0.8%" in said  # its bound, 0.70246%, rounded up
    assert "nothing is lost by policy: {name: full}" in said
    assert spec.read_text() == before
    assert not (tmp_path / "out/_calibrate/policy.yaml").exists()


def test_interrupted_it_says_how_to_go_on(corm_batch, write_job, ran):
    ran["result"] = KeyboardInterrupt()
    result = corm_batch("calibrate", write_job(ROWS))
    assert result.code == 130
    assert "the same command goes on" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-loss", "lots"), "--max-loss: got 'lots', allowed are"),
        (("--policy", "nope"), "no policy is called 'nope'"),
        (("--documents", "5"), "6"),
        (("--output", "s3://"), "--output s3://"),
    ],
)
def test_a_wrong_argument_is_the_users(corm_batch, write_job, ran, options, message):
    result = corm_batch("calibrate", write_job(ROWS), *options)
    assert result.code == 2
    assert message in result.err
