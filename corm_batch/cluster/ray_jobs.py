"""RayJobs: jobs on a Ray cluster through its Jobs API, submitted, looked at, followed and cancelled.

A job is shipped as its complete spec and the plug-in files that this uses; everything else (this package, credentials,
model, documents, output) is the cluster's to have or to reach. Its id is made of both, so that the same job is
recognised.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ray.job_submission import JobDetails, JobStatus

from corm_batch.cluster.jobs_api import connect, explained
from corm_batch.errors import ClusterError, SpecError
from corm_batch.exit_codes import End, ExitCode, end_of
from corm_batch.registry import plugin_files

if TYPE_CHECKING:
    from corm_batch.spec import JobSpec

State = Literal["pending", "running"] | End

_ACTIVE: dict[JobStatus, Literal["pending", "running"]] = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "running",
}
_ENDS: dict[JobStatus, End] = {JobStatus.SUCCEEDED: "ok", JobStatus.STOPPED: "cancelled"}
_NO_COMMAND = 127
_SPEC_FILE = "job.yaml"
_NAME, _OUTPUT = "corm_batch_name", "corm_batch_output"  # keys of Ray's metadata
_STOP_S = 30  # until Ray kills a driver it told to stop: a large commit may take longer than Ray's three seconds
_AWAY_S = 120.0
_NO_AGENT, _NO_AGENT_S = "No available agent", 12.0  # Ray itself waits ten seconds for one before it says so
_WITHOUT_AGENT = (
    "the cluster answers, but none of its nodes has an agent that takes jobs. A head that was started this minute may "
    "still start its own: submit again. Else see dashboard_agent.log in the session's logs on the head, which needs "
    "ray[default] and a free port for --dashboard-agent-listen-port"
)
_POLL_S = 0.2


@dataclass(frozen=True)
class SubmittedJob:
    """One attempt at a job, as the cluster knows it.

    Attributes:
        id: names it on the cluster.
        name, output_uri: the spec's.
        state: "failed documents": it came to its end, and some documents have failed rows; "stopped": verify.stop_above
            ended it.
        started_at, ended_at: Unix seconds by the cluster's clock; None when that has not come yet.
        exit_code: what `corm-batch run` ended with, or would have; None before the end.
        reason: why it failed, in the cluster's words; empty unless it did.
    """

    id: str
    name: str
    output_uri: str
    state: State
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    reason: str

    @property
    def active(self) -> bool:
        """Whether it has not come to its end."""
        return self.state in ("pending", "running")

    @property
    def seconds(self) -> float | None:
        """How long it has been there, or took; None when the cluster does not say."""
        if self.started_at is None:
            return None
        return max(0.0, (self.ended_at or time.time()) - self.started_at)


class RayJobs:
    """The jobs of one cluster. Every method raises ClusterError when it does not answer, or refuses the token."""

    def __init__(self, address: str) -> None:
        """Reach the cluster whose dashboard is at `address`, a URL as `valid_address` returns it."""
        self.address = address
        self._client = connect(address)

    def submit(self, spec: JobSpec, *, retry_failed: bool = False) -> tuple[SubmittedJob, bool]:
        """Have the cluster run `corm-batch run` on `spec`, unless it is at it already.

        After an attempt that has ended comes the next one, with a number after the id, which goes on where that ended.

        Returns:
            The job, and whether it was this call that submitted it.
        """
        spec = spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"address": None})})
        first = job_id(spec, retry_failed=retry_failed)
        while True:
            attempts = {number: job for job in self.jobs() if (number := _attempt(job.id, first))}
            newest = max(attempts, default=0)
            if newest and attempts[newest].active:
                return attempts[newest], False
            id_ = f"{first}-{newest + 1}" if newest else first
            if self._submit(id_, spec, retry_failed):
                return self.job(id_), True

    def _submit(self, id_: str, spec: JobSpec, retry_failed: bool) -> bool:
        """Whether it was submitted; not when another was first with this id.

        Raises:
            ClusterError: no agent of the cluster takes a job, `_NO_AGENT_S` seconds long.
        """
        command = ["corm-batch", "run", _SPEC_FILE, *(["--retry-failed"] if retry_failed else [])]
        since = time.monotonic()
        with explained(self.address), tempfile.TemporaryDirectory() as folder:
            Path(folder, _SPEC_FILE).write_text(spec.to_yaml(), encoding="utf-8")
            for file in plugin_files(spec):
                Path(folder, file.file_name).write_text(file.source, encoding="utf-8")
                command += ["--plugin", file.file_name]
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=f"exec {shlex.join(command)}",  # no shell stays in between
                        submission_id=id_,
                        # whoever sees the dashboard sees this: nothing of our environment goes along
                        runtime_env={"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)}},
                        metadata={_NAME: spec.name, _OUTPUT: spec.output.uri},
                    )
                    return True
                except RuntimeError as error:
                    if f"{id_} already exists" in str(error):
                        return False
                    if _NO_AGENT not in str(error):
                        raise
                    if time.monotonic() - since > _NO_AGENT_S:
                        raise ClusterError(f"{self.address}: {_WITHOUT_AGENT}") from error
                time.sleep(_POLL_S)

    def jobs(self) -> list[SubmittedJob]:
        """Every job submitted so, newest first. The cluster forgets them when its head ends."""
        with explained(self.address):
            found = self._client.list_jobs()
        jobs = [_submitted(details) for details in found if _OUTPUT in (details.metadata or {})]
        return sorted(jobs, key=lambda job: job.started_at or 0.0, reverse=True)

    def job(self, id_: str) -> SubmittedJob:
        """One job.

        Raises:
            SpecError: there is none of that id.
        """
        found = {job.id: job for job in self.jobs()}
        if id_ not in found:
            known = ", ".join(list(found)[:10]) or "none"
            raise SpecError(f"ID: no job at {self.address} is called {id_!r}; there are: {known}")
        return found[id_]

    def log(self, job: SubmittedJob) -> str:
        """What its driver has printed so far."""
        with explained(self.address):
            return str(self._client.get_job_logs(job.id))

    def follow(self, id_: str) -> Iterator[str]:
        """What its driver has printed and prints until its end, piece by piece; broken connections are made again.

        Raises:
            SpecError: there is none of that id.
            ClusterError: the cluster has not answered for `_AWAY_S` seconds, or has forgotten the job meanwhile.
        """
        self.job(id_)
        seen, answered = 0, time.monotonic()
        while True:
            try:
                active = self.job(id_).active  # if not: what it printed before is still to be read
                for piece in self._tail(id_, seen):
                    seen += len(piece)
                    yield piece
                if not active:
                    return
                answered = time.monotonic()
            except SpecError as error:
                raise ClusterError(
                    f"{self.address}: the cluster has forgotten {id_}, for its head was started anew. What is "
                    "committed is safe: submit the job again"
                ) from error
            except ClusterError:
                if time.monotonic() - answered > _AWAY_S:
                    raise
                time.sleep(1.0)

    def _tail(self, id_: str, skip: int) -> Iterator[str]:
        """The log from character `skip` on, until the job ends."""

        async def following(pieces: AsyncIterator[str]) -> str | None:
            return await anext(pieces, None)

        pieces = self._client.tail_job_logs(id_)
        with asyncio.Runner() as runner:
            while True:
                try:
                    with explained(self.address):
                        piece = runner.run(following(pieces))
                except ClusterError:
                    raise
                except Exception as error:  # what Ray's HTTP client says of a broken connection
                    raise ClusterError(f"{self.address}: the connection broke: {error}") from error
                if piece is None:
                    return
                if fresh := piece[skip:]:
                    yield fresh
                skip = max(0, skip - len(piece))

    def cancel(self, id_: str) -> tuple[SubmittedJob, bool]:
        """Tell its driver to stop and wait for its end: it commits what is finished and frees the output.

        Returns:
            The job as it ended, and whether it was this call that ended it.

        Raises:
            SpecError: there is none of that id.
            ClusterError: it does not end.
        """
        job = self.job(id_)
        if not job.active:
            return job, False
        with explained(self.address):
            self._client.stop_job(id_)
        deadline = time.monotonic() + 2 * _STOP_S
        while (job := self.job(id_)).active:
            if time.monotonic() > deadline:
                raise ClusterError(f"{id_}: was told to stop and is still {job.state} after {2 * _STOP_S} s")
            time.sleep(_POLL_S)
        return job, True


def job_id(spec: JobSpec, *, retry_failed: bool) -> str:
    """The same for the same job: its name and a hash of everything that was asked for, the output included."""
    files = "".join(file.digest for file in plugin_files(spec))
    content = f"{retry_failed}\n{spec.to_yaml()}{files}"
    return f"{spec.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _attempt(id_: str, first: str) -> int | None:
    """Which attempt at the job `first` this is, from 1; None when it is another job."""
    number = id_.removeprefix(f"{first}-")
    if id_ == first:
        return 1
    return int(number) if number != id_ and number.isdecimal() else None


def _submitted(details: JobDetails) -> SubmittedJob:
    metadata = details.metadata or {}
    code = details.driver_exit_code
    ended = None if details.status in _ACTIVE else _ENDS.get(details.status) or end_of(code or ExitCode.FAILED)
    state = ended or _ACTIVE[details.status]
    reason = ""
    if state == "failed":
        reason = details.message or ""
        if code == _NO_COMMAND:
            reason = "corm-batch is not on the PATH with which Ray was started on the cluster's head"
    return SubmittedJob(
        id=details.submission_id or "",
        name=metadata.get(_NAME, ""),
        output_uri=metadata[_OUTPUT],
        state=state,
        started_at=None if details.start_time is None else details.start_time / 1000,
        ended_at=None if details.end_time is None else details.end_time / 1000,
        exit_code=None if ended is None else ExitCode.WRONG_SPEC if code == ExitCode.WRONG_SPEC else ExitCode.of(ended),
        reason=reason,
    )
