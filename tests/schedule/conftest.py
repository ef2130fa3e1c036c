"""Schedules, and a world for servers in which time passes as the test says and jobs are stand-ins."""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest

from corm_batch.pipeline.signals import StopSignals
from corm_batch.schedule.registry import ScheduleRegistry
from corm_batch.schedule.schedule import RunState, Schedule
from corm_batch.schedule.server import ScheduleServer
from tests.schedule.oracle import MINUTE

ROOT = Path(__file__).parents[2]
START = datetime(2026, 6, 1, tzinfo=UTC)


def make_schedule(**changes):
    fields = {
        "name": "nightly",
        "spec": str(ROOT / "jobs/nightly.yaml"),
        "cron": "0 2 * * *",
        "directory": str(ROOT),
        "added_at": START,
    }
    return Schedule.of(fields | changes, "test")


@pytest.fixture
def registry(tmp_path):
    return ScheduleRegistry(str(tmp_path / "schedules"))


class Job:
    """A run that ends by itself at a time, or when told to."""

    def __init__(self, world, ends_at, code):
        self.world, self.ends_at, self.code = world, ends_at, code

    def poll(self):
        return self.code if self.world.now >= self.ends_at else None

    def terminate(self):
        if self.poll() is None:
            self.ends_at, self.code = self.world.now, 130

    def wait(self):
        return self.poll()


class MemoryRegistry:
    """A registry of one process, for worlds in which years pass."""

    uri = "memory"

    def __init__(self):
        self.schedules, self.states = {}, {}

    def add(self, schedule):
        self.schedules[schedule.name] = schedule

    def names(self):
        return sorted(self.schedules)

    def schedule(self, name):
        return self.schedules[name]

    def state(self, schedule):
        return self.states.get(schedule.name, RunState(considered_until=schedule.added_at))

    def write_state(self, name, state):
        self.states[name] = state


class World:
    """The clock, the jobs that were started as (name, time), and the log."""

    def __init__(self, registry):
        self.registry = registry
        self.now = START
        self.step = timedelta(seconds=60)
        self.job_s = 90.0
        self.code = 0
        self.runs = []
        self.log = []

    def wake_up(self, now):
        """When a server that sleeps at `now` looks at the clock again."""
        return now + self.step

    def start(self, schedule):
        self.runs.append((schedule.name, self.now))
        return Job(self, self.now + timedelta(seconds=self.job_s), self.code)

    def serve(self, until, *, clean=True, check=lambda: None):
        """Serve from now until `until`; not clean: as if killed then."""
        stop = StopSignals()

        def sleep(seconds):
            self.now = self.wake_up(self.now)
            if self.now >= until:
                if not clean:
                    raise SystemExit
                stop.requested = True

        server = ScheduleServer(self.registry, self.log.append, start=self.start, clock=lambda: self.now, sleep=sleep)
        if not clean:
            server._end = lambda: None
            with pytest.raises(SystemExit):
                server.serve(stop, check)
            return
        server.serve(stop, check)

    def state(self, name="nightly"):
        return self.registry.state(self.registry.schedule(name))


class DueWorld(World):
    """A world with one schedule an expression, whose clock jumps: to what is due by the oracle, and beside it.

    Args:
        clock: what `zone` shows from beginning to end.
        zone, crons: of the schedules.
    """

    def __init__(self, clock, zone, crons):
        super().__init__(MemoryRegistry())
        self.now, self.job_s = clock.start, 20
        self.due = {cron: clock.due(cron) for cron in crons}
        self.ran = {cron: [] for cron in crons}
        beside = [timedelta(seconds=seconds) for seconds in (-60, -1, 0, 30)]
        due = set().union(*self.due.values())
        self.moments = sorted({time + offset for time, offset in product(due, beside)} | {clock.end + MINUTE})
        for number, cron in enumerate(crons):
            self.registry.add(make_schedule(name=f"cron-{number}", cron=cron, time_zone=zone, added_at=clock.start))

    def wake_up(self, now):
        return self.moments[bisect_right(self.moments, now)]

    def start(self, schedule):
        self.ran[schedule.cron].append((self.state(schedule.name).last_due, self.now))
        return super().start(schedule)

    def serve_all(self):
        """Serve to the end of the clock."""
        self.serve(self.moments[-1])

    def difference(self, cron):
        """What was not started when it was due, or started when it was not; None where all is right."""
        due, ran = {(time, time) for time in self.due[cron]}, self.ran[cron]
        if sorted(due) == ran:
            return None
        return (
            f"{len(ran)} starts of {len(due)} due, wrong first at {min(due.symmetric_difference(ran), default='twice')}"
        )


@pytest.fixture
def world(registry):
    return World(registry)
