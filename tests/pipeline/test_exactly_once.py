"""Drivers that are ended by a signal, as real processes with a cluster of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.ledger import read_results
from corm_batch.pipeline.parts import list_parts, read_part
from tests.fakes import scripted
from tests.pipeline.conftest import ROOT

DOCUMENTS = {f"d{index}": f"Document {index} is about the number {index}. " * (1 + index % 7) for index in range(40)}
DRIVER = """
import sys
from corm_batch.pipeline.driver import run_job
from corm_batch.spec import JobSpec
from tests.fakes import scripted
summary = run_job(JobSpec.load(sys.argv[1]), load_model=scripted(step_s=0.2))
print("interrupted" if summary.interrupted else "complete", summary.ok)
"""


@pytest.fixture
def driver(job, tmp_path):
    """A job, and a process that runs it slowly; ended at the latest with the test."""
    spec = job(DOCUMENTS, output={"part_documents": 4}, cluster={"token_budget": 60})
    (tmp_path / "job.yaml").write_text(spec.to_yaml())
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "job.yaml")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield spec, process
    process.kill()
    process.wait()


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def descendants(pid):
    """Process ids below `pid`."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


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
def test_driver_killed_with_9_leaves_no_process_and_a_rerun_completes_its_rows(driver, ray_cluster, job, tmp_path):
    spec, process = driver
    until(lambda: committed(spec), 120)
    family = descendants(process.pid)
    assert any("raylet" in Path(f"/proc/{pid}/cmdline").read_text() for pid in family)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = committed(spec)
    assert 0 < len(before) < len(DOCUMENTS)
    until(lambda: not any(map(is_running, family)), 60)

    summary = run_job(spec, load_model=scripted())
    assert (summary.skipped, summary.ok) == (len(before), len(DOCUMENTS) - len(before))
    undisturbed = job(DOCUMENTS, output={"uri": str(tmp_path / "undisturbed")})
    run_job(undisturbed, load_model=scripted())
    assert sorted(committed(spec)) == sorted(committed(undisturbed))
    assert read_results(spec.output.uri).num_rows == len(DOCUMENTS)


@pytest.mark.ray
def test_sigterm_commits_what_is_finished_within_three_seconds(driver, tmp_path):
    spec, process = driver
    until(lambda: committed(spec), 120)
    started = time.monotonic()
    process.terminate()
    until(lambda: not (tmp_path / "out" / "_job" / "lease.json").exists(), 3)
    assert time.monotonic() - started < 3
    said, _ = process.communicate(timeout=60)
    assert said.split() == ["interrupted", str(len(committed(spec)))]
    assert process.returncode == 0
