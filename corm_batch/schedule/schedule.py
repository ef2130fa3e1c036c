"""Schedule: which job runs when; and RunState: what came of it so far. Knows nothing of where they are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import chdir
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from corm_batch.cluster.address import DashboardAddress
from corm_batch.cluster_section import Section
from corm_batch.data.uri import Uri
from corm_batch.errors import SpecError
from corm_batch.exit_codes import End, end_of
from corm_batch.registry import describe, load_plugin
from corm_batch.schedule.cron import valid_cron, valid_time_zone
from corm_batch.spec import JobSpec

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,34}[a-z0-9])?$"  # a RayCronJob, the narrowest of all, takes 36 characters


def _in_full(path: str) -> str:
    """The path of a file of this machine, from wherever it is looked for."""
    return os.path.abspath(os.path.expanduser(path))


Outcome = Literal["running", "interrupted"] | End


class Schedule(Section):
    """A job and its times."""

    name: str = Field(pattern=NAME_PATTERN, description="lower-case letters, digits and '-', at most 36")
    spec: Uri = Field(description="the job's YAML file, local or s3://")
    cron: Annotated[str, AfterValidator(valid_cron)] = Field(description="minute hour day-of-month month day-of-week")
    time_zone: Annotated[str, AfterValidator(valid_time_zone)] = Field("UTC", description="IANA name")
    overrides: tuple[str, ...] = Field((), description="changes of the spec, each section.field=value")
    plugins: tuple[Annotated[str, AfterValidator(_in_full)], ...] = Field(
        (), description="files of plug-ins that the spec names, read anew for each run"
    )
    retry_failed: bool = Field(False, description="answer failed documents again")
    address: DashboardAddress | None = Field(None, description="dashboard of the Ray cluster it runs on; default: here")
    directory: str = Field(description="what relative paths in the spec count from")
    added_at: AwareDatetime = Field(description="nothing was due before")

    @classmethod
    def of(cls, fields: Mapping[str, object], origin: str) -> Schedule:
        """Validate `fields`; `origin` names where they come from in messages.

        Raises:
            SpecError: one line for each wrong field: its path, what was given, what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SpecError(f"{origin}:\n{describe(error, '', cls)}") from error

    def job(self) -> JobSpec:
        """The job as it is written now.

        Raises:
            SpecError: the spec or a plug-in cannot be read or is wrong, or `directory` is gone.
        """
        for path in self.plugins:
            load_plugin(path)
        try:
            with chdir(self.directory):
                return JobSpec.load(self.spec, self.overrides)
        except OSError as error:
            raise SpecError(f"directory: {self.directory}: {error.strerror}") from error

    def arguments(self) -> list[str]:
        """What follows `corm-batch` on the command line that runs the job."""
        verb = ["run"] if self.address is None else ["submit", "--address", self.address, "--follow"]
        changes = [part for override in self.overrides for part in ("--set", override)]
        plugins = [part for path in self.plugins for part in ("--plugin", path)]
        return [*verb, self.spec, *changes, *plugins, *(["--retry-failed"] if self.retry_failed else [])]

    def command(self) -> list[str]:
        """The whole command line, with the Python of this process; to be run in `directory`."""
        return [os.path.abspath(sys.executable), "-P", "-m", "corm_batch.cli", *self.arguments()]


class RunState(Section):
    """How far a schedule has come.

    Attributes:
        considered_until: what was due up to here was run or skipped, and is not run again.
        last_due: due time of the last run that was started; None before the first.
        started_at, ended_at: of that run.
        outcome: of that run. running: or its server was killed; stopped: by verify.stop_above; cancelled: it was told
            to stop; interrupted: its server was told to stop.
        exit_code: of that run; negative: the number of the signal that ended it.
    """

    considered_until: AwareDatetime
    last_due: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    outcome: Outcome | None = None
    exit_code: int | None = None

    @property
    def seconds(self) -> float | None:
        """How long the last run took; None before it has ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()

    def considered(self, until: datetime) -> RunState:
        """The state once everything due up to `until` is dealt with."""
        return self.model_copy(update={"considered_until": max(until, self.considered_until)})

    def started(self, due: datetime, now: datetime) -> RunState:
        """The state once the run for `due` is about to start."""
        until = max(due, self.considered_until)
        return RunState(considered_until=until, last_due=due, started_at=now, outcome="running")

    def ended(self, exit_code: int, now: datetime, *, interrupted: bool) -> RunState:
        """The state once the run has ended; `interrupted`: by the server's own end."""
        outcome: Outcome = end_of(exit_code)
        if interrupted and outcome in ("failed", "cancelled"):
            outcome = "interrupted"
        return self.model_copy(update={"ended_at": now, "outcome": outcome, "exit_code": exit_code})
