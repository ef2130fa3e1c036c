"""corm-batch schedule: the verbs, and `serve` as a real process with real jobs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from corm_batch.data.newest_rows import read_results
from tests.until import until

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/quickstart/model"
NIGHTLY = ROOT / "jobs/nightly.yaml"
DAILY = ("--cron", "0 2 * * *")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The default registry, in a data folder of this test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data/corm-batch/schedules"


def test_add_list_remove(corm_batch, registry):
    added = corm_batch(
        "schedule", "add", "nightly", NIGHTLY, *DAILY, "--time-zone", "Asia/Kolkata", "--set", "policy.tau=2"
    )
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith("nightly: 0 2 * * * Asia/Kolkata, next 20")
    assert yaml.safe_load((registry / "nightly.yaml").read_text())["directory"] == os.getcwd()

    listed = corm_batch("schedule", "list")
    assert listed.out.startswith(f"Schedules in {registry}\n")
    cells = [cell.strip() for cell in listed.out.splitlines()[3].split("|")]
    assert (cells[:3], cells[3][-9:], cells[4:]) == (
        ["nightly", "0 2 * * *", "Asia/Kolkata"],
        "02:00 IST",
        ["-", "-", str(NIGHTLY)],
    )
    row = json.loads(corm_batch("schedule", "list", "--json").out)
    assert row["next"].endswith("02:00:00+05:30")
    assert (row["name"], row["last"], row["outcome"]) == ("nightly", None, None)

    again = corm_batch("schedule", "add", "nightly", NIGHTLY, *DAILY)
    assert (again.code, again.err) == (
        2,
        "corm-batch: name: nightly is there already; give --replace or another name\n",
    )
    assert corm_batch("schedule", "add", "nightly", NIGHTLY, *DAILY, "--replace").code == 0
    assert corm_batch("schedule", "remove", "nightly").code == 0
    assert corm_batch("schedule", "list").out == f"No schedules in {registry}\n"
    missing = corm_batch("schedule", "remove", "nightly")
    assert (missing.code, missing.err) == (2, "corm-batch: name: no schedule is called 'nightly'; there are: none\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Nightly", NIGHTLY, *DAILY], "name: "),
        (["nightly", NIGHTLY, "--cron", "99 2 * * *"], "cron: bad minute; expected five fields"),
        (["nightly", NIGHTLY, *DAILY, "--time-zone", "Europe/Berln"], "time_zone: expected a time zone"),
        (["nightly", "no-such-file.yaml", *DAILY], "no-such-file.yaml: cannot read the spec"),
        (["nightly", NIGHTLY, *DAILY, "--set", "policy.windw=7"], "policy.windw: unknown key"),
        (
            ["nightly", NIGHTLY, *DAILY, "--address", "head:8265"],
            "address: expected the URL of the cluster's dashboard",
        ),
        (["nightly", NIGHTLY], "Missing option '--cron'"),
        (["nightly", NIGHTLY, *DAILY, "--to", "gs://bucket/x"], "registry: expected a local path or an s3:// URI"),
    ],
)
def test_what_is_wrong_is_not_kept(corm_batch, registry, arguments, message):
    result = corm_batch("schedule", "add", *arguments)
    assert result.code == 2
    assert message in result.err
    assert not registry.exists()


def test_list_shows_the_others_when_one_is_broken(corm_batch, tmp_path):
    folder = tmp_path / "elsewhere"
    corm_batch("schedule", "add", "nightly", NIGHTLY, *DAILY, "--to", folder)
    (folder / "broken.yaml").write_text("name: broken")
    listed = corm_batch("schedule", "list", "--registry", folder)
    assert listed.code == 2
    assert "nightly" in listed.out
    assert f"{folder}/broken.yaml:\nspec: Field required" in listed.err


def test_where_a_job_runs(corm_batch, registry):
    corm_batch("schedule", "add", "nightly", NIGHTLY, *DAILY, "--address", "http://head:8265/")
    assert yaml.safe_load((registry / "nightly.yaml").read_text())["address"] == "http://head:8265"
    wrong = corm_batch("schedule", "serve", "--address", "http://user:canary@head:8265")
    assert (wrong.code, "credentials in a URL" in wrong.err, "canary" in wrong.err) == (2, True, False)


@pytest.fixture
def serve(registry):
    """Starts `schedule serve` as a process, which is told to stop, and its jobs with it, when the test ends."""
    started = []

    def start():
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "corm_batch.cli", "schedule", "serve"],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=120)


def make_due(registry, name):
    """As if the schedule had been there for a month, so that a run was missed."""
    path = registry / f"{name}.yaml"
    fields = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(fields | {"added_at": "2026-01-01T00:00:00Z"}))


def outcome(registry, name):
    path = registry / f"_state/{name}.json"
    return json.loads(path.read_text())["outcome"] if path.exists() else None


def stopped(server):
    """Tell a server to stop; its exit code and log."""
    server.send_signal(signal.SIGTERM)
    _, log = server.communicate(timeout=120)
    return server.returncode, log


def test_serve_runs_a_real_job(corm_batch, registry, serve, write_job):
    """One empty document, which needs no engine: a failed row, exit code 3."""
    corm_batch("schedule", "add", "empty", write_job([{"doc_id": "a", "text": ""}]), *DAILY)
    make_due(registry, "empty")
    server = serve()
    until(lambda: outcome(registry, "empty") == "failed documents")
    second = corm_batch("schedule", "serve")
    assert second.code == 1
    assert "corm-batch: another `schedule serve` runs these schedules" in second.err
    code, log = stopped(server)
    assert code == 0
    assert "empty: failed documents (exit code 3)" in log
    assert log.endswith(" served\n")
    assert not (registry / "_job/lease.json").exists()
    row = json.loads(corm_batch("schedule", "list", "--json").out)
    assert (row["outcome"], row["exit_code"]) == ("failed documents", 3)
    assert row["seconds"] > 0


@pytest.mark.ray
def test_sigterm_commits_what_is_finished_and_frees_the_lease(corm_batch, registry, serve, tmp_path):
    documents = [{"doc_id": f"d{number}", "text": "The pass key is 17. Remember it.\n" * 60} for number in range(6)]
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "documents.parquet")
    job = {
        "name": "slow",
        "model": {"name": str(MODEL), "dtype": "float32", "device": "cpu"},
        "source": {"name": "parquet", "uri": str(tmp_path / "documents.parquet")},
        "task": {"name": "question_answer", "question": "What is the pass key?", "max_new_tokens": 8},
        "engine": {"kv_memory": "64MiB", "max_sequences": 1},
        "output": {"uri": str(tmp_path / "out"), "part_documents": 1},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    corm_batch("schedule", "add", "slow", tmp_path / "job.yaml", *DAILY)
    make_due(registry, "slow")
    lease = tmp_path / "out/_job/lease.json"

    server = serve()
    until(lambda: outcome(registry, "slow") == "failed" or list((tmp_path / "out/results").glob("*.parquet")))
    assert lease.exists()
    code, log = stopped(server)
    assert code == 0
    assert "slow: told to stop" in log
    assert "slow: interrupted (exit code 130)" in log
    assert not lease.exists()
    before = read_results(str(tmp_path / "out")).num_rows
    assert 0 < before < len(documents)
