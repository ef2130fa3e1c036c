"""Drivers that are ended by a signal, as real processes with a cluster of their own."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from corm_batch.data.document import Document
from corm_batch.data.newest_rows import read_results
from corm_batch.data.parts import list_parts, read_part
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from corm_batch.tasks.base import Task
from infra.chaos.faults import descendants
from tests.conftest import ROOT, RUNS_MODELS
from tests.fakes import scripted
from tests.until import until

DOCUMENTS = {f"d{index}": f"Document {index} is about the number {index}. " * (1 + index % 7) for index in range(40)}
DRIVER = f"""
import sys
from corm_batch.pipeline.driver import run_job
from corm_batch.spec import JobSpec
from tests.fakes import scripted
summary = run_job(JobSpec.load(sys.argv[1]), load_model=scripted(step_s=0.2))
print("interrupted" if summary.interrupted else "complete", summary.ok, *{RUNS_MODELS} & set(sys.modules))
"""


@pytest.fixture
def start(job, tmp_path):
    """Starts a process that runs a job slowly; it is ended at the latest with the test."""
    spec = job(DOCUMENTS, output={"part_documents": 4}, cluster={"token_budget": 60})
    (tmp_path / "job.yaml").write_text(spec.to_yaml())
    started = []

    def driver(**environment):
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(tmp_path / "job.yaml")],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return spec, started[-1]

    yield driver
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def undisturbed(rows):
    """(doc_id, status, output) of every document from a replica that nothing happens to."""
    task = Task.from_spec({"name": "summarize", "max_new_tokens": 8})
    actor = EngineActor(WorkerSettings(scripted(), task, rows, 30.0))

    async def answer():
        await actor.load()
        return await asyncio.gather(*(actor.process(Document(*document)) for document in DOCUMENTS.items()))

    return sorted((row.result["doc_id"], "ok", row.result["output"]) for row in asyncio.run(answer()))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def committed(spec):
    """(doc_id, status, output) of every row of every part."""
    tables = [read_part(uri) for uri in list_parts(f"{spec.output.uri}/results")]
    return [(row["doc_id"], row["status"], row["output"]) for table in tables for row in table.to_pylist()]


@pytest.mark.ray
def test_driver_killed_with_9_leaves_no_process_and_a_rerun_completes_its_rows(start, undisturbed, without_a_cluster):
    spec, process = start()
    until(lambda: committed(spec), 120)
    family = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants(process.pid)}
    # Ray's two agents notice by themselves, within about a minute
    cluster = [pid for pid, command in family.items() if "Agent" not in command]
    assert any("EngineActor" in family[pid] for pid in cluster)
    assert any("raylet" in family[pid] for pid in cluster)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = committed(spec)
    assert 0 < len(before) < len(DOCUMENTS)
    until(lambda: not any(map(is_running, cluster)), 20)

    summary = run_job(spec, load_model=scripted())
    assert (summary.skipped, summary.ok) == (len(before), len(DOCUMENTS) - len(before))
    assert sorted(committed(spec)) == undisturbed
    assert read_results(spec.output.uri).num_rows == len(DOCUMENTS)


@pytest.mark.ray
def test_sigterm_commits_what_is_finished_within_three_seconds(start, ray_cluster, tmp_path):
    spec, process = start(RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    until(lambda: committed(spec), 120)
    started = time.monotonic()
    process.terminate()
    until(lambda: not (tmp_path / "out" / "_job" / "lease.json").exists(), 3)
    assert time.monotonic() - started < 3
    said, _ = process.communicate(timeout=60)
    assert said.split() == ["interrupted", str(len(committed(spec)))]
    assert process.returncode == 0
