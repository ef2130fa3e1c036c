"""ScheduleServer: a loop that starts what is due and records what came of it.

Every due time is run once or, while the schedule's last run still goes on, skipped. Whatever was due while nobody
served, and a run that the end of a server cut short, are caught up by one run. Knows nothing of how a job runs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol
from zoneinfo import ZoneInfo

from corm_batch.errors import LeaseError, OutputError, SourceError, SpecError
from corm_batch.exit_codes import ExitCode
from corm_batch.pipeline.signals import StopSignals
from corm_batch.schedule.cron import latest_due, next_due
from corm_batch.schedule.registry import ScheduleRegistry
from corm_batch.schedule.schedule import RunState, Schedule

POLL_S = 0.5
RELOAD_S = 15.0
_LATE_S = 60.0


class Process(Protocol):
    """A running job, as `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def terminate(self) -> None:
        """Tell it to stop: SIGTERM."""

    def wait(self) -> int:
        """Wait for its end; the exit code."""


def start_job(schedule: Schedule, address: str | None = None) -> Process:
    """Run the job of `schedule` in a process of its own, out of reach of this terminal's Ctrl-C.

    A job that gets a second signal ends at once, so only the server signals it. A job on a cluster, at the schedule's
    address or else at `address`, is followed by that process and goes on without it.
    """
    schedule = schedule.model_copy(update={"address": schedule.address or address})
    return subprocess.Popen(
        schedule.command(), cwd=schedule.directory, stdin=subprocess.DEVNULL, start_new_session=True
    )


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


@dataclass
class _Entry:
    """One schedule while it is served."""

    schedule: Schedule
    state: RunState
    next_due: datetime | None
    unfinished: bool
    process: Process | None = None


class ScheduleServer:
    """Serves one registry.

    Args:
        registry: read again every `RELOAD_S` seconds, so schedules may come and go.
        say: called with one line for everything a log should hold.
        start: starts a job.
        clock: the time, aware.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        registry: ScheduleRegistry,
        say: Callable[[str], None],
        *,
        start: Callable[[Schedule], Process] = start_job,
        clock: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._say = say
        self._start = start
        self._clock = clock
        self._sleep = sleep
        self._entries: dict[str, _Entry] = {}
        self._reload_at: datetime | None = None
        self._told: dict[str, str] = {}

    def serve(self, stop: StopSignals, check: Callable[[], None]) -> None:
        """Run what is due until `stop` is requested; then stop the running jobs and wait for their end.

        Args:
            stop: looked at every `POLL_S` seconds.
            check: called with every reading of the registry; what it raises ends the loop.
        """
        self._say(f"serving {self._registry.uri}")
        try:
            while not stop.requested:
                self._step(check)
                self._sleep(POLL_S)
        finally:
            self._end()

    def _step(self, check: Callable[[], None]) -> None:
        self._collect()
        now = self._clock()
        if self._reload_at is None or abs((now - self._reload_at).total_seconds()) >= RELOAD_S:
            self._guarded("lease", check)
            self._guarded("registry", self._reload)
            self._reload_at = now
        for entry in self._entries.values():
            if entry.unfinished or (entry.next_due is not None and entry.next_due <= now):
                self._guarded(entry.schedule.name, partial(self._run_due, entry, now))

    def _reload(self) -> None:
        """Take over what was added, replaced or removed; a removed schedule's run goes on to its end."""
        names = self._registry.names()
        for name in names:
            self._guarded(f"{name} (file)", partial(self._load, name))
        for name in self._entries.keys() - set(names):
            if self._entries[name].process is None:
                self._say(f"{name}: removed")
                del self._entries[name]
            else:
                self._entries[name].next_due = None

    def _load(self, name: str) -> None:
        schedule = self._registry.schedule(name)
        entry = self._entries.get(name)
        if entry is not None and entry.schedule == schedule:
            return
        if entry is None:
            state = self._registry.state(schedule)
            entry = _Entry(schedule, state, None, unfinished=state.outcome in ("running", "interrupted"))
            self._entries[name] = entry
        entry.schedule, entry.state = schedule, entry.state.considered(schedule.added_at)
        entry.next_due = self._next_due(entry)
        self._say(f"{name}: {schedule.cron} {schedule.time_zone}, next {_local(schedule, entry.next_due)}")

    def _next_due(self, entry: _Entry) -> datetime | None:
        """The first due time that is not dealt with; whatever was, is never due again."""
        until = entry.state.considered_until
        due = next_due(entry.schedule.cron, entry.schedule.time_zone, until)
        return due if due is not None and due > until else None

    def _run_due(self, entry: _Entry, now: datetime) -> None:
        """Start the run for the latest due time, or skip it while the last run goes on."""
        schedule, state, first = entry.schedule, entry.state, entry.next_due
        if first is not None and first <= now:
            due = _latest(schedule, first, now)
        elif state.last_due is not None:
            first, due = None, state.last_due
        else:
            return
        if entry.process is not None:
            self._record(entry, state.considered(due))
            self._say(f"{schedule.name}: skipped {_local(schedule, due)}: its last run still goes on")
            return
        self._record(entry, state.started(due, now))  # first of all: whatever happens now, it is not run again
        self._say(f"{schedule.name}: {_reason(entry, first, due, now)}")
        entry.unfinished = False
        try:
            entry.process = self._start(schedule)
        except OSError as error:
            self._say(f"{schedule.name}: cannot be started: {error}")
            self._record(entry, entry.state.ended(ExitCode.FAILED, now, interrupted=False))

    def _collect(self) -> None:
        """Record the runs that have ended."""
        for entry in self._entries.values():
            code = entry.process.poll() if entry.process is not None else None
            if code is not None:
                self._finish(entry, code, interrupted=False)

    def _finish(self, entry: _Entry, code: int, *, interrupted: bool) -> None:
        entry.process = None
        entry.state = entry.state.ended(code, self._clock(), interrupted=interrupted)
        self._say(f"{entry.schedule.name}: {entry.state.outcome} (exit code {code})")
        self._guarded(entry.schedule.name, partial(self._record, entry, entry.state))

    def _record(self, entry: _Entry, state: RunState) -> None:
        """Keep a state, here once it is kept in the registry; a schedule that was removed has none and is not due."""
        there = entry.schedule.name in self._registry.names()
        if there:
            self._registry.write_state(entry.schedule.name, state)
        entry.state = state
        entry.next_due = self._next_due(entry) if there else None

    def _end(self) -> None:
        running = [entry for entry in self._entries.values() if entry.process is not None]
        for entry in running:
            self._say(f"{entry.schedule.name}: told to stop")
            if entry.process is not None:
                entry.process.terminate()
        for entry in running:
            if entry.process is not None:
                self._finish(entry, entry.process.wait(), interrupted=True)
        self._say("served")

    def _guarded(self, key: str, action: Callable[[], None]) -> None:
        """Do it; what goes wrong is said once, and tried again later. A lost lease is not for this server to mend."""
        try:
            action()
        except LeaseError:
            raise
        except (SpecError, SourceError, OutputError) as error:
            if self._told.get(key) != str(error):
                self._told[key] = str(error)
                self._say(f"{key}: {error}")
        else:
            self._told.pop(key, None)


def _latest(schedule: Schedule, first: datetime, now: datetime) -> datetime:
    """The last of the due times from `first` to `now`: never before `first`, so that what is dealt with advances."""
    latest = latest_due(schedule.cron, schedule.time_zone, now)
    return latest if latest is not None and first <= latest <= now else first


def _reason(entry: _Entry, first: datetime | None, due: datetime, now: datetime) -> str:
    """Why a run starts."""
    text = _local(entry.schedule, due)
    if first is None:
        return f"the run for {text} was cut short and is taken up again"
    if first < due:
        return f"running once for all that was due from {_local(entry.schedule, first)} to {text}"
    return f"running for {text}" + (", late" if (now - due).total_seconds() > _LATE_S else "")


def _local(schedule: Schedule, time: datetime | None) -> str:
    """A time as the schedule's zone shows it."""
    return "never" if time is None else f"{time.astimezone(ZoneInfo(schedule.time_zone)):%Y-%m-%d %H:%M %Z}"
