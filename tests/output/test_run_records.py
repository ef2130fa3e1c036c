"""What runs wrote of themselves, and the pace of those of one model."""

import json

import pytest

from corm_batch.errors import SourceError
from corm_batch.output.run_records import EarlierRuns, RunRecord, read_records

RUN = {"ok": 3, "failed": 1, "seconds": 10.0, "prompt_tokens": 900, "output_tokens": 100, "model_hash": "m"}


def write(tmp_path, **runs):
    (tmp_path / "_job/runs").mkdir(parents=True)
    for name, record in runs.items():
        (tmp_path / f"_job/runs/{name}.json").write_text(json.dumps(record))
    return str(tmp_path)


def test_records_lie_by_the_ids_of_their_runs_and_may_be_of_an_earlier_version(tmp_path):
    old = {"ok": 1, "failed": 0, "seconds": 2.0}
    assert read_records(write(tmp_path, b=RUN, a=old)) == (
        RunRecord("a", 1, 2.0, ok=1),
        RunRecord("b", 4, 10.0, model_hash="m", ok=3, prompt_tokens=900, output_tokens=100),
    )
    assert read_records(f"{tmp_path}/nothing") == ()


def test_what_is_no_record_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"a.json: no record of a run: 'ok'. Delete it"):
        read_records(write(tmp_path, a={}))


def test_the_pace_is_that_of_the_runs_of_one_model(tmp_path):
    idle, other = {**RUN, "ok": 0, "prompt_tokens": 0}, {**RUN, "model_hash": "other"}
    records = read_records(
        write(tmp_path, a=RUN, b=idle, c=other, d={**RUN, "seconds": 30.0}, e={**RUN, "model_hash": ""})
    )
    found = EarlierRuns.of_model(records, "m")
    assert found == EarlierRuns(runs=2, documents=6, prompt_tokens=1800, output_tokens=200, seconds=40.0)
    assert (found.tokens_per_s, found.documents_per_h) == (50.0, 540.0)
    assert found.seconds_for(3600) == 80.0
    assert EarlierRuns.of_model(records, "unknown") is None
