"""corm-batch status: what a job's log tells of its progress, and how jobs are listed."""

import io
import json

import pytest
from rich.console import Console

from corm_batch.cli.progress import show_progress
from corm_batch.cli.run import _print_summary
from corm_batch.cli.status import Documents
from corm_batch.cluster import ray_jobs
from corm_batch.cluster.ray_jobs import SubmittedJob
from corm_batch.errors import ClusterError, SpecError
from corm_batch.pipeline.progress import Event, JobSummary, Progress

FAILED = "Job entrypoint command failed with exit code 1\ncorm-batch: no such model"


def log_of(*progress, summary=None):
    """What a job prints off the terminal."""
    console = Console(file=io.StringIO(), width=1000)
    with show_progress("papers", console, as_json=False) as on_event:
        for counts in progress:
            on_event(Event("document", counts))
    if summary is not None:
        console.print("Documents\npapers: 9 of 9 documents, 9 failed, ETA 1s; | 17")
        _print_summary(console, summary)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("log", "documents"),
    [
        ("", None),
        ("Runtime env is setting up.\n", None),
        (log_of(Progress(total=27)), Documents(0, 0, 27)),
        (log_of(Progress(), Progress(ok=4, failed=1, seconds=70)), Documents(5, 1, None)),
        (log_of(Progress(total=27), Progress(total=27, ok=2, skipped=20, seconds=70)), Documents(22, 0, 27)),
        (
            log_of(Progress(total=27), summary=JobSummary(run_id="r1", total=27, ok=20, failed=1, skipped=6)),
            Documents(27, 1, 27),
        ),
        (
            log_of(Progress(total=27), summary=JobSummary(run_id="r1", total=27, ok=3, interrupted=True)),
            Documents(3, 0, 27),
        ),
        (log_of(summary=JobSummary(run_id="r1", skipped=27)), Documents(27, 0, None)),
        (log_of(summary=JobSummary(run_id="r1", ok=1, failed=1, skipped=8, skipped_failed=3)), Documents(10, 4, None)),
        (log_of(Progress(total=27, ok=2, failed=1, skipped=9, skipped_failed=3)), Documents(12, 4, 27)),
        (
            log_of(Progress(total=27, ok=9, verified=5, differing=1, audited=9)),
            Documents(9, 0, 27, "verified 5 so far; 1 would have been answered otherwise"),
        ),
        (
            log_of(Progress(ok=1), summary=JobSummary(run_id="r1", ok=27, audited=27, verified=27, stopped="enough")),
            Documents(27, 0, None, "verified all 27; 0 would have been answered otherwise"),
        ),
    ],
)
def test_documents_from_the_log(log, documents):
    assert Documents.read(log) == documents


def test_a_log_that_is_cut_says_nothing_else():
    counts = Progress(total=27, ok=2, failed=1, skipped=3, seconds=70)
    log = log_of(counts, summary=JobSummary(run_id="r1", total=27, ok=20, failed=1, skipped=6))
    said = [None, Documents(6, 1, 27), Documents(27, 1, 27)]
    assert [*dict.fromkeys(Documents.read(log[:end]) for end in range(len(log)))] == said
    without_total = Documents(27, 1, None)
    assert {Documents.read(log[start:]) for start in range(len(log))} == {said[-1], without_total, None}


class Cluster:
    """Three jobs; the log of one is gone."""

    address = "http://head:8265"

    def __init__(self, address):
        assert address == self.address
        log = log_of(Progress(total=3), summary=JobSummary(run_id="r1", total=3, ok=2, failed=1))
        self._logs = {"papers-1-2": log_of(Progress(total=27)), "papers-1": log}
        self._jobs = [
            SubmittedJob("papers-1-2", "papers", "s3://b/out", "pending", 1e9, 1e9 + 65, None, ""),
            SubmittedJob("papers-1", "papers", "s3://b/out", "failed documents", 1e9, 1e9 + 5, 3, ""),
            SubmittedJob("letters", "letters", "s3://b/letters", "failed", None, None, 1, FAILED),
        ]

    def jobs(self):
        return self._jobs

    def job(self, id_):
        for job in self._jobs:
            if job.id == id_:
                return job
        raise SpecError("no such job")

    def log(self, job):
        if job.id not in self._logs:
            raise ClusterError("the node is gone")
        return self._logs[job.id]


@pytest.fixture
def status(corm_batch, monkeypatch):
    monkeypatch.setattr(ray_jobs, "RayJobs", Cluster)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265/")
    return lambda *arguments: corm_batch("status", *arguments)


def test_all_jobs(status, monkeypatch):
    lines = status().out.splitlines()
    assert lines[0] == "Jobs at http://head:8265"
    assert [[cell.strip() for cell in line.split("|")] for line in lines[3:6]] == [
        ["papers-1-2", "pending", "1m05s", "0 of 27", "0", "s3://b/out"],
        ["papers-1", "failed documents", "5.0s", "3 of 3", "1", "s3://b/out"],
        ["letters", "failed", "-", "-", "-", "s3://b/letters"],
    ]
    monkeypatch.setattr("corm_batch.cli.status._SHOWN", 2)
    assert "and 1 older ones, which --json shows" in status().out
    assert len(status("--json").out.splitlines()) == 3
    monkeypatch.setattr(Cluster, "jobs", lambda self: [])
    assert status().out == "No jobs at http://head:8265\n"


def test_one_job(status):
    shown = status("letters").out
    assert "corm-batch: no such model" in shown
    assert "documents  -\n" in shown
    row = json.loads(status("papers-1", "--json").out)
    assert row["documents"] == {"done": 3, "failed": 1, "total": 3, "verification": ""}
    assert (row["state"], row["exit_code"], row["seconds"], row["started_at"][:10]) == (
        *("failed documents", 3, 5.0),
        "2001-09-09",
    )
    assert status("nobody").code == 2
