"""Schedules, and a world for servers in which time passes as the test says and jobs are stand-ins."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from corm_batch.pipeline.signals import StopSignals
from corm_batch.schedule.registry import ScheduleRegistry
from corm_batch.schedule.schedule import Schedule
from corm_batch.schedule.server import ScheduleServer

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

    def start(self, schedule):
        self.runs.append((schedule.name, self.now))
        return Job(self, self.now + timedelta(seconds=self.job_s), self.code)

    def serve(self, until, *, clean=True, check=lambda: None):
        """Serve from now until `until`; not clean: as if killed then."""
        stop = StopSignals()

        def sleep(seconds):
            self.now += self.step
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


@pytest.fixture
def world(registry):
    return World(registry)
