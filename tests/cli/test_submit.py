"""corm-batch submit, logs and cancel: with a stand-in for the cluster, then on a real one that wants a token."""

import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from corm_batch.cluster import ray_jobs
from corm_batch.cluster.ray_jobs import SubmittedJob
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts, read_part
from corm_batch.errors import CormBatchError
from tests.cli.real_cluster import CANARIES, ROOT, RealCluster, descendants
from tests.until import until

MODEL = str(ROOT / "jobs/quickstart/model")
ROWS = [{"doc_id": name, "text": "t"} for name in "abc"]


class Cluster:
    """One job, which was submitted before when it is asked to be; the specs that were submitted."""

    submitted = ()
    known = ()
    interrupt = False
    logged = ""
    ended = SubmittedJob("job-1", "test", "/out", "failed documents", 1.0, 2.0, 3, "")

    def __init__(self, address):
        self.address = address

    def submit(self, spec, *, retry_failed):
        Cluster.submitted = (*Cluster.submitted, (spec, retry_failed))
        return self.ended, len(Cluster.submitted) == 1

    def job(self, id_):
        return self.ended

    def log(self, job):
        return f"log of {job.id}\n{self.logged}"

    def follow(self, id_):
        yield "first\n"
        yield from self.logged
        if self.interrupt:
            raise KeyboardInterrupt
        yield "last\n"

    def cancel(self, id_):
        return self.ended, len(Cluster.submitted) > 0


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(ray_jobs, "RayJobs", Cluster)
    monkeypatch.setattr(Cluster, "submitted", ())
    return Cluster


def test_submit_says_what_to_do_next(corm_batch, write_job, cluster):
    result = corm_batch("submit", write_job(ROWS), "--set", "policy.tau=2", "--retry-failed")
    assert result.out.splitlines() == [
        "job-1: submitted to http://127.0.0.1:8265",
        "  corm-batch status job-1",
        "  corm-batch logs job-1 --follow",
        "  corm-batch cancel job-1",
    ]
    assert (result.code, result.err) == (0, "")
    ((spec, retry_failed),) = cluster.submitted
    assert (spec.policy.tau, retry_failed) == (2, True)
    again = corm_batch("submit", write_job(ROWS), "--address", "http://head:8265/")
    assert again.code == 0
    assert again.out.startswith("job-1: is there already, not submitted again: http://head:8265\n")
    assert "  corm-batch cancel job-1 --address http://head:8265\n" in again.out


def test_local_paths_on_another_machine_are_mentioned(corm_batch, write_job, cluster, tmp_path):
    result = corm_batch("submit", write_job(ROWS), "--address", "http://head:8265", "--set", "model.name=org/model")
    assert result.code == 0
    assert result.err.startswith(f"source.uri ({tmp_path}/documents.parquet), output.uri ({tmp_path}/out): local paths")
    assert "model.name" not in result.err


def test_following_ends_as_the_job_did(corm_batch, write_job, cluster, monkeypatch):
    for verb in (("submit", write_job(ROWS)), ("logs", "job-1")):
        result = corm_batch(*verb, "--follow")
        assert result.code == 3
        assert result.out.endswith("first\nlast\n")
        assert result.err == "job-1: failed documents\n"
    monkeypatch.setattr(Cluster, "interrupt", True)
    result = corm_batch("logs", "job-1", "--follow")
    assert (result.code, result.err) == (130, "job-1 goes on; to stop it: corm-batch cancel job-1\n")


def test_a_log_is_harmless_however_it_comes(corm_batch, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "logged", "\x1b]0;x\x07é\n(pid=7) s3://KEY:SECRET@bucket/\x1b[31m no end")
    for verb, first in ((("logs", "job-1"), "log of job-1\n"), (("logs", "job-1", "-f"), "first\n")):
        shown = corm_batch(*verb).out.removeprefix(first).removesuffix("last\n")
        assert shown == "\\x1b]0;x\\x07é\n(pid=7) s3://***@bucket/\\x1b[31m no end"


def test_json_logs_and_cancel(corm_batch, write_job, cluster):
    assert corm_batch("cancel", "job-1").out == "job-1: had ended before: failed documents\n"
    row = json.loads(corm_batch("submit", write_job(ROWS), "--json").out)
    assert (row["id"], row["submitted"], row["address"]) == ("job-1", True, "http://127.0.0.1:8265")
    assert corm_batch("logs", "job-1").out == "log of job-1\n"
    assert corm_batch("cancel", "job-1").out == "job-1: failed documents, what was finished is in /out\n"


def test_what_is_wrong_is_said_before_the_cluster_is_asked(corm_batch, write_job, monkeypatch):
    def unreachable(address):
        raise CormBatchError(f"{address}: no Ray cluster answers there")

    monkeypatch.setattr(ray_jobs, "RayJobs", unreachable)
    spec = write_job(ROWS)
    wrong = corm_batch("submit", spec, "--set", "policy.tua=2")
    assert (wrong.code, "policy.tua: unknown key" in wrong.err) == (2, True)
    secret = corm_batch("submit", spec, "--address", "http://user:canary@head:8265")
    assert (secret.code, "credentials in a URL" in secret.err, "canary" in secret.err) == (2, True, False)
    assert corm_batch("submit", spec).code == 1


@pytest.fixture(scope="module")
def real():
    folder = tempfile.mkdtemp(prefix="ray-")  # a short path: Ray's sockets lie below it
    cluster = RealCluster(folder)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def no_canary_in(text):
    assert not [canary for canary in CANARIES.values() if canary in text]


@pytest.mark.ray
def test_a_token_is_wanted_and_the_refusal_explained(real, tmp_path):
    status = ("-m", "corm_batch.cli", "status")
    none = real.start(*status, RAY_AUTH_MODE="disabled")
    wrong = real.start(*status, RAY_AUTH_TOKEN="wrong-canary")
    for process, message in ((none, "401: the cluster wants a token"), (wrong, "403: the cluster refuses the token")):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert message in err
        assert "RAY_AUTH_TOKEN_PATH" in err
        assert "canary" not in err


@pytest.mark.ray
def test_run_names_the_token_that_a_cluster_wants(real, write_job):
    command = ("-m", "corm_batch.cli", "run", write_job(ROWS), "--set", f"cluster.address={real.address}")
    process = real.start(*command, RAY_AUTH_TOKEN="wrong-canary")
    _, err = process.communicate(timeout=60)
    *_, joining, refused = err.splitlines()
    assert process.returncode == 1
    assert f"joining the Ray cluster at {real.address}" in joining
    assert refused.startswith(f"corm-batch: cluster.address: {real.address}: 403: the cluster refuses the token")
    assert "canary" not in err


CANCEL = """
import sys, time
from corm_batch.cluster.ray_jobs import RayJobs
jobs = RayJobs(sys.argv[1])
sys.stdin.readline()
print(time.time(), flush=True)
job, stopped = jobs.cancel(sys.argv[2])
print(job.state, stopped)
"""


def documents_of(output):
    """The id of every committed row, however often it is there."""
    return [doc_id for uri in list_parts(f"{output}/results") for doc_id in read_part(uri)["doc_id"].to_pylist()]


@pytest.mark.ray
def test_submitted_twice_cancelled_and_submitted_again(real, write_job, tmp_path):
    """The way of a job on a cluster: cancelled, then killed with its head; what was committed is not answered again.

    A driver from outside says that its head was started anew, and frees its output.
    """
    rows = [{"doc_id": f"d{number}", "text": "The pass key is 17. Remember it.\n" * 45} for number in range(10)]
    path = write_job(
        rows,
        model={"name": MODEL, "dtype": "float32", "device": "cpu"},
        engine={"kv_memory": "64MiB", "max_sequences": 1},
        output={"uri": str(tmp_path / "out"), "part_documents": 1},
    )
    both = [real.start("-m", "corm_batch.cli", "submit", path, "--json") for _ in range(2)]
    said = [json.loads(process.communicate(timeout=100)[0]) for process in both]
    assert sorted(row["submitted"] for row in said) == [False, True]
    (id_,) = {row["id"] for row in said}

    cancel = real.start("-c", CANCEL, real.url, id_)
    until(lambda: documents_of(tmp_path / "out"))
    lease = tmp_path / "out/_job/lease.json"
    assert lease.exists()
    cancel.stdin.write("\n")
    cancel.stdin.flush()
    asked = float(cancel.stdout.readline())
    until(lambda: not lease.exists())
    assert time.time() - asked < 3
    assert cancel.communicate(timeout=100)[0] == "cancelled True\n"
    cancelled = len(documents_of(tmp_path / "out"))
    assert 0 < cancelled < len(rows)

    outside = str(tmp_path / "outside")
    changes = {"output.uri": outside, "cluster.address": real.address, "cluster.cpus_per_replica": 9}  # waits for 9
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    follower = real.start("-m", "corm_batch.cli", "submit", path, "--follow")
    driver = real.start("-m", "corm_batch.cli", "run", path, *options)
    assert follower.stdout.readline() == f"{id_}-2: submitted to {real.url}\n"
    code, shown, err = real.call("status", "--json")
    again, first = map(json.loads, shown.splitlines())
    assert (again["id"], again["state"] in ("pending", "running")) == (f"{id_}-2", True)
    assert (first["id"], first["state"]) == (id_, "cancelled")
    assert first["documents"] == {"done": cancelled, "failed": 0, "total": 10, "verification": ""}
    no_canary_in(err + shown)
    while "waiting for room for a replica" not in driver.stderr.readline():
        assert driver.poll() is None
    until(lambda: len(documents_of(tmp_path / "out")) > cancelled)
    family = descendants(real.process.pid)
    assert any("corm-batch run" in command for command in family.values())
    assert any("EngineActor" in command for command in family.values())
    real.kill_head()
    real.start_head()
    agents = {pid for pid, command in family.items() if "Agent" in command}  # Ray's own, and they take their time
    until(lambda: not descendants(*family.keys() - agents), 20)
    before = documents_of(tmp_path / "out")
    assert cancelled < len(before) < len(rows)
    log, err = follower.communicate(timeout=60)
    assert (follower.returncode, f"has forgotten {id_}-2" in err) == (1, True), err
    no_canary_in(log + err)

    code, log, err = real.call("submit", path, "--follow")
    assert (code, err) == (0, f"{id_}: ok\n"), log
    assert f"{len(rows) - len(before)} ok, 0 failed, {len(before)} done before" in log
    no_canary_in(log)
    found = read_results(str(tmp_path / "out"))
    ids = sorted(row["doc_id"] for row in rows)
    assert sorted(documents_of(tmp_path / "out")) == sorted(found["doc_id"].to_pylist()) == ids
    assert set(found["status"].to_pylist()) == {"ok"}
    shown = [real.start("-m", "corm_batch.cli", *verb) for verb in (("status", "--json"), ("logs", id_))]
    status, logs = (process.communicate(timeout=60)[0] for process in shown)
    (job,) = map(json.loads, status.splitlines())
    assert (job["id"], job["state"]) == (id_, "ok")
    assert job["documents"] == {"done": 10, "failed": 0, "total": 10, "verification": ""}
    assert f"{len(before)} done before" in logs

    _, err = driver.communicate(timeout=60)
    assert (driver.returncode, "its head was started anew" in err) == (1, True), err
    assert sorted(os.listdir(f"{outside}/_job")) == ["runs", "spec.yaml"]  # no lease
    for pid in descendants(*agents):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
def test_no_secret_is_left_anywhere(real):
    """After the tests above: in what Ray knows of their jobs, in its logs, in specs, records and rows."""
    jobs = json.loads(real.get("/api/jobs/"))
    assert jobs
    no_canary_in(json.dumps(jobs))
    read = 0
    for job in jobs:
        log = real.get(f"/api/jobs/{job['submission_id']}/logs")
        assert "documents" in log
        no_canary_in(log)
        output = Path(job["metadata"]["corm_batch_output"])
        for file in [*output.rglob("*"), *Path(real.folder).rglob("*.log"), *Path(real.folder).rglob("*.yaml")]:
            if file.is_file():
                no_canary_in(file.read_bytes().decode("latin-1"))
                read += 1
        for part in output.rglob("part-*.parquet"):
            no_canary_in(str(pq.read_table(part).to_pylist()) + str(pq.read_schema(part).metadata))
    assert read > 10
