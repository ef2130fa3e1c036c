"""corm-batch plan, drawn and as JSON."""

import json
import subprocess
import sys
import time
from pathlib import Path

MODEL = Path(__file__).parents[2] / "jobs/quickstart/model"
ROWS = [{"doc_id": f"d{number}", "text": "word " * 40 * (number + 1)} for number in range(20)]


def test_ten_thousand_rows_in_seconds_without_weights_or_ray(write_job):
    """The model's folder holds no weights; Ray is never imported. 3 KB a row, 30 MB in all."""
    job = write_job([{"doc_id": f"d{number}", "text": f"line {number} of a story " * 150} for number in range(10_000)])
    code = "import sys; from corm_batch.cli import main\ntry: main()\nfinally: assert 'ray' not in sys.modules"
    started = time.monotonic()
    printed = subprocess.run(
        [sys.executable, "-c", code, "plan", str(job), "--json"], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    planned = json.loads(printed.stdout)
    assert (planned["documents"], planned["measured"], planned["todo"], planned["splits"]) == (
        10_000,
        10_000,
        10_000,
        5,
    )
    assert seconds < 60, "about 10 s on two idle cores, most of them imports"


def test_tables(corm_batch, write_job):
    result = corm_batch("plan", write_job(ROWS, engine={"kv_memory": "16MiB"}))
    assert result.code == 0
    assert "20 documents in 1 split of 1 parquet file" in result.out
    assert "by the model's tokenizer" in result.out
    assert "Documents by tokens" in result.out
    assert "in a pool of 16.0 MiB" in result.out
    assert result.out.isascii()


def test_a_pool_that_is_not_known_yet(corm_batch, write_job):
    job = write_job(ROWS, model={"name": str(MODEL), "device": "cuda"})
    assert "in a pool of 10.0 GiB, for example (engine.kv_memory is not set" in corm_batch("plan", job).out


def test_set_changes_the_spec(corm_batch, write_job):
    job = write_job(ROWS)
    assert corm_batch("plan", job, "--set", "engine.kv_memory=1MiB", "--json").code == 0
    planned = json.loads(corm_batch("plan", job, "--set", "engine.kv_memory=1MiB", "--json").out)
    assert planned["pool_bytes"] == 2**20


def test_wrong_spec_and_no_model(corm_batch, write_job, tmp_path):
    result = corm_batch("plan", write_job(ROWS, polcy={"name": "full"}))
    assert result.code == 2
    assert "polcy: unknown key" in result.err

    result = corm_batch("plan", write_job(ROWS, model={"name": str(tmp_path)}))
    assert result.code == 1
    assert f"model.name: cannot load '{tmp_path}'" in result.err
