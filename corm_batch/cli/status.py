"""`corm-batch status`: the jobs on a Ray cluster, and how far each is by what it has printed itself.

Its log is all this takes: the output may be out of this machine's reach, and commits come less often.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corm_batch.cli.cluster_options import LOCAL_DASHBOARD, Address, open_cluster
from corm_batch.cli.console import label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson
from corm_batch.errors import ClusterError
from corm_batch.report.units import seconds_text

if TYPE_CHECKING:
    from corm_batch.cluster.ray_jobs import RayJobs, SubmittedJob

_SHOWN = 20
_BEFORE = r"(?P<before>\d+) done before(?: \(\d+ ok, (?P<before_failed>\d+) failed\))?"
_VERIFIED = r"(?P<verified>\d+) verified \((?P<differing>\d+) differ\)"
_COUNTS = re.compile(  # a whole line of cli/progress.py, and no row of a table, which may begin with any text
    r"^\S+: (?P<answered>\d+)(?: of (?P<todo>\d+))? documents, (?P<failed>\d+) failed"
    rf"(?:, {_BEFORE})?(?:, {_VERIFIED})?, ETA [^|\n]+\n",
    re.MULTILINE,
)
_SUMMARY = re.compile(  # the last word of cli/run.py
    rf"^Run \S+: (?P<ok>\d+) ok, (?P<failed>\d+) failed, {_BEFORE}, "
    r"[^\n]*(?:\nVerification: (?P<verification>[^\n]+)\n)?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Documents:
    """How far a job is: documents done (failed ones too), failed, and in all, those of earlier runs among them.

    `total` is None when the source cannot say. `verification` is what is known of the answers, empty where they are not
    verified.
    """

    done: int
    failed: int
    total: int | None
    verification: str = ""

    @classmethod
    def read(cls, log: str) -> Documents | None:
        """What the log says last; None before it says anything."""
        found = None
        for line in _COUNTS.finditer(log):
            before = int(line["before"] or 0)
            total = None if line["todo"] is None else int(line["todo"]) + before
            verified = f"verified {line['verified']} so far; {line['differing']} would have been answered otherwise"
            found = cls(int(line["answered"]) + before, _failed(line), total, verified if line["verified"] else "")
        for line in _SUMMARY.finditer(log):
            done = sum(int(line[name]) for name in ("ok", "failed", "before"))
            found = cls(done, _failed(line), found.total if found else None, line["verification"] or "")
        return found

    @property
    def text(self) -> str:
        """`12 of 27`."""
        return str(self.done) if self.total is None else f"{self.done} of {self.total}"


def _failed(line: re.Match[str]) -> int:
    """Failed documents of this run and of earlier ones."""
    return int(line["failed"]) + int(line["before_failed"] or 0)


def status(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One job; by default all of them.", show_default=False)
    ] = None,
    address: Address = LOCAL_DASHBOARD,
    as_json: AsJson = False,
) -> None:
    """Show submitted jobs: state, time, documents done and failed, output."""
    cluster = open_cluster(address)
    jobs = cluster.jobs() if job_id is None else [cluster.job(job_id)]
    console = output_console()
    if as_json:
        for job in jobs:
            print_json(_as_json(job, _documents(cluster, job)))
    elif job_id is not None:
        print_table(console, jobs[0].id, [label(""), prose("")], _rows(cluster, jobs[0]), heads=False)
    elif jobs:
        heads = [label("job"), label("state"), number("time"), number("documents"), number("failed"), prose("output")]
        cells = [_cells(job, _documents(cluster, job)) for job in jobs[:_SHOWN]]
        print_table(console, f"Jobs at {cluster.address}", heads, cells)
        if len(jobs) > _SHOWN:
            console.print(f"and {len(jobs) - _SHOWN} older ones, which --json shows", soft_wrap=True)
    else:
        console.print(f"No jobs at {cluster.address}", soft_wrap=True)


def _documents(cluster: RayJobs, job: SubmittedJob) -> Documents | None:
    """None as well where the log is gone, with the node it was on."""
    try:
        return Documents.read(cluster.log(job))
    except ClusterError:
        return None


def _as_json(job: SubmittedJob, documents: Documents | None) -> dict[str, Any]:
    return {
        **asdict(job),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "seconds": job.seconds,
        "documents": None if documents is None else asdict(documents),
    }


def _cells(job: SubmittedJob, documents: Documents | None) -> tuple[str, ...]:
    counts = ("-", "-") if documents is None else (documents.text, str(documents.failed))
    return (job.id, job.state, seconds_text(job.seconds), *counts, job.output_uri)


def _rows(cluster: RayJobs, job: SubmittedJob) -> list[tuple[str, str]]:
    documents = _documents(cluster, job)
    started = _time(job.started_at)
    rows = [
        ("state", job.state),
        ("submitted", "-" if started is None else f"{started:%Y-%m-%d %H:%M:%S %Z}"),
        ("time", seconds_text(job.seconds)),
        ("documents", "-" if documents is None else f"{documents.text}, {documents.failed} failed"),
        *([("verification", documents.verification)] if documents is not None and documents.verification else []),
        ("output", job.output_uri),
        ("cluster", cluster.address),
    ]
    return [*rows, ("reason", job.reason)] if job.reason else rows


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
