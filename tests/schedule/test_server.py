"""ScheduleServer in a world whose clock the test turns: once, on time, never twice at a time, across restarts."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.errors import LeaseError, OutputError, SourceError
from corm_batch.schedule import server
from corm_batch.schedule.cron import due_after
from corm_batch.schedule.server import start_job
from tests.schedule.conftest import START, DueWorld, MemoryRegistry, World, make_schedule
from tests.schedule.oracle import SPARSE_CRONS, TURNING_ZONES, WallClock, changes

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def seldom_reloads(monkeypatch):
    """The registry, whose files take most of the time, is read every six hours of a world's time."""
    monkeypatch.setattr(server, "RELOAD_S", 6 * 3600.0)


def times(world, name="nightly"):
    return [time for ran, time in world.runs if ran == name]


def test_runs_when_due(world, seldom_reloads):
    world.registry.add(make_schedule())
    world.registry.add(make_schedule(name="hourly", cron="30 * * * *"))
    world.serve(START + 2 * DAY + HOUR)
    assert times(world) == [START + 2 * HOUR, START + DAY + 2 * HOUR]
    assert len(times(world, "hourly")) == 49
    assert "nightly: 0 2 * * * UTC, next 2026-06-01 02:00 UTC" in world.log
    assert "nightly: running for 2026-06-01 02:00 UTC" in world.log
    assert "nightly: ok (exit code 0)" in world.log
    state = world.state()
    assert (state.outcome, state.last_due, state.seconds) == ("ok", START + DAY + 2 * HOUR, 120)


def test_clock_changes(world, seldom_reloads):
    world.now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    world.registry.add(make_schedule(cron="30 2 * * *", time_zone="Europe/Berlin", added_at=world.now))
    world.serve(world.now + 2 * DAY)
    assert times(world) == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]
    world.now = datetime(2027, 3, 27, 12, tzinfo=UTC)
    world.runs.clear()
    world.registry.add(make_schedule(name="spring", cron="30 2 * * *", time_zone="Europe/Berlin", added_at=world.now))
    world.serve(world.now + DAY)
    assert times(world, "spring") == [datetime(2027, 3, 28, 1, 0, tzinfo=UTC)]


def test_missed_runs_are_caught_up_by_one(world):
    world.registry.add(make_schedule())
    world.serve(START + 3 * HOUR)
    world.now = START + 5 * DAY
    world.serve(START + 5 * DAY + 3 * HOUR)
    assert times(world) == [START + 2 * HOUR, START + 5 * DAY, START + 5 * DAY + 2 * HOUR]
    assert any(
        "once for all that was due from 2026-06-02 02:00 UTC to 2026-06-05 02:00 UTC" in line for line in world.log
    )


def test_one_missed_run_says_late(world):
    world.registry.add(make_schedule())
    world.now = START + 8 * HOUR
    world.serve(START + 9 * HOUR)
    assert times(world) == [START + 8 * HOUR]
    assert "nightly: running for 2026-06-01 02:00 UTC, late" in world.log


def test_nothing_was_due_before_it_was_added(world):
    world.registry.add(make_schedule(added_at=START + 3 * HOUR))
    world.now = START + 3 * HOUR
    world.serve(START + DAY)
    assert times(world) == []


def test_no_overlap_with_itself_but_with_others(world):
    world.job_s = 2.5 * 3600
    world.registry.add(make_schedule(cron="0 * * * *"))
    world.registry.add(make_schedule(name="other", cron="30 1 * * *"))
    world.serve(START + 6.5 * HOUR)
    assert times(world) == [START + HOUR, START + 4 * HOUR]
    assert times(world, "other") == [START + 1.5 * HOUR]
    skipped = [line for line in world.log if "skipped" in line]
    assert skipped[:2] == [f"nightly: skipped 2026-06-01 0{hour}:00 UTC: its last run still goes on" for hour in (2, 3)]


def test_told_to_stop_it_stops_the_job_and_takes_it_up_again(world):
    world.job_s = 4 * 3600
    world.registry.add(make_schedule())
    world.serve(START + 3 * HOUR)
    state = world.state()
    assert (state.outcome, state.exit_code) == ("interrupted", 130)
    assert world.log[-3:] == ["nightly: told to stop", "nightly: interrupted (exit code 130)", "served"]
    world.now = START + 7 * HOUR
    world.serve(START + 12 * HOUR)
    assert times(world) == [START + 2 * HOUR, START + 7 * HOUR]
    assert "nightly: the run for 2026-06-01 02:00 UTC was cut short and is taken up again" in world.log
    assert world.state().outcome == "ok"
    world.serve(START + 13 * HOUR)
    assert len(times(world)) == 2


def test_a_killed_server_takes_the_run_up_again_once(world):
    world.job_s = 3600
    world.registry.add(make_schedule())
    world.serve(START + 2.5 * HOUR, clean=False)
    assert world.state().outcome == "running"
    world.now = START + 3 * DAY  # two more were missed: one run for all
    world.serve(START + 3 * DAY + 1.5 * HOUR)
    assert times(world) == [START + 2 * HOUR, START + 3 * DAY]


def test_a_run_that_was_cancelled_or_failed_waits_for_its_next_time(world, seldom_reloads):
    world.registry.add(make_schedule())
    for code, outcome in ((130, "cancelled"), (1, "failed"), (3, "failed documents")):
        world.code = code
        world.serve(world.now + DAY)
        assert world.state().outcome == outcome
    assert len(world.runs) == 3


def test_schedules_come_change_and_go_while_serving(world):
    world.job_s = 6 * 3600

    def check():
        if world.now == START + HOUR:
            world.registry.add(make_schedule(added_at=world.now))
        if world.now == START + 3 * HOUR:
            world.registry.remove("nightly")
        if world.now == START + 10 * HOUR:
            world.registry.add(make_schedule(cron="0 11 * * *", added_at=world.now))
        if world.now == START + 10.5 * HOUR:
            world.registry.add(make_schedule(cron="0 12 * * *", added_at=world.now), replace=True)

    world.serve(START + 19 * HOUR, check=check)
    assert times(world) == [START + 2 * HOUR, START + 12 * HOUR]
    assert "nightly: removed" in world.log
    assert world.state().outcome == "ok"


def test_a_broken_schedule_is_said_once_and_stops_no_other(world, tmp_path):
    world.registry.add(make_schedule())
    (tmp_path / "schedules/broken.yaml").write_text("name: broken")
    world.serve(START + 3 * HOUR)
    assert len(times(world)) == 1
    assert sum("broken.yaml" in line for line in world.log) == 1


def test_a_run_that_cannot_be_recorded_is_not_started(world, monkeypatch):
    world.registry.add(make_schedule())
    write = world.registry.write_state

    def fail(name, state):
        if world.now < START + 4 * HOUR:
            raise OutputError("no space left")
        write(name, state)

    monkeypatch.setattr(world.registry, "write_state", fail)
    world.serve(START + 5 * HOUR)
    assert times(world) == [START + 4 * HOUR]
    assert world.log.count("nightly: no space left") == 1


def test_a_job_that_cannot_be_started_has_failed(world, monkeypatch):
    world.registry.add(make_schedule())
    monkeypatch.setattr(world, "start", lambda schedule: start_job(make_schedule(directory="/no/such/folder")))
    world.serve(START + 3 * HOUR)
    assert world.state().outcome == "failed"
    assert any("cannot be started" in line and "/no/such/folder" in line for line in world.log)


def test_a_schedule_without_an_address_takes_the_servers(monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **options: started.append(command))
    start_job(make_schedule(), "http://all:8265")
    start_job(make_schedule(address="http://own:8265"), "http://all:8265")
    start_job(make_schedule(address="http://own:8265"))
    start_job(make_schedule())
    told = [command[command.index("--address") + 1] if "--address" in command else command[-2] for command in started]
    assert told == ["http://all:8265", "http://own:8265", "http://own:8265", "run"]


def test_a_store_that_is_away_is_waited_for_a_lost_lease_is_not(world):
    world.job_s = 10 * 3600
    world.registry.add(make_schedule())

    def check():
        if START + HOUR < world.now < START + 2 * HOUR:
            raise SourceError("the store is away")
        if world.now > START + 4 * HOUR:
            raise LeaseError("lost to another")

    with pytest.raises(LeaseError, match="lost to another"):
        world.serve(START + DAY, check=check)
    assert world.log.count("lease: the store is away") == 1
    assert world.state().outcome == "interrupted"


def test_a_clock_set_back_runs_nothing_twice(world):
    world.registry.add(make_schedule(cron="0 * * * *"))
    world.serve(START + 3.5 * HOUR)
    world.now = START + 1.5 * HOUR
    world.serve(START + 4.5 * HOUR)
    assert times(world) == [START + hours * HOUR for hours in (1, 2, 3, 4)]


@pytest.mark.parametrize("zone", TURNING_ZONES)
def test_starts_exactly_what_is_due(zone):
    """Two days about each clock change of a year; `python -m tests.schedule.check_zones --serve`: two whole years."""
    for change in changes(zone, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)):
        world = DueWorld(WallClock(zone, change - DAY, change + DAY), zone, SPARSE_CRONS)
        world.serve_all()
        assert [told for cron in SPARSE_CRONS if (told := world.difference(cron))] == []


@pytest.mark.parametrize(
    "latest", [lambda *_: None, lambda cron, zone, now: now - DAY, lambda cron, zone, now: now + DAY]
)
def test_whatever_the_latest_is_said_to_be_no_due_time_runs_twice(monkeypatch, latest):
    world = World(MemoryRegistry())
    monkeypatch.setattr(server, "latest_due", latest)
    world.registry.add(make_schedule(cron="*/30 0 * * *"))
    world.serve(START + 2 * DAY)
    assert times(world) == [START + number * DAY + half * HOUR / 2 for number in (0, 1) for half in (0, 1)][1:]


@pytest.mark.parametrize("off", [-DAY, 0 * DAY])
def test_a_next_due_time_that_is_past_is_no_due_time(monkeypatch, off):
    world = World(MemoryRegistry())
    monkeypatch.setattr(server, "next_due", lambda cron, zone, after: after + off)
    world.registry.add(make_schedule(cron="*/30 0 * * *"))
    world.serve(START + DAY / 4)
    assert times(world) == []
    assert "nightly: */30 0 * * * UTC, next never" in world.log


crons = st.sampled_from(
    ["*/7 * * * *", "0 * * * *", "15,45 1-3 * * *", "30 2 * * *", "0 0 * * SUN", "0 3 25 * MON", "59 23 * * *"]
)
zones = st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
begins = st.sampled_from([datetime(2026, *day, 6, tzinfo=UTC) for day in ((3, 27), (4, 3), (10, 23), (10, 30))])


@settings(max_examples=15)
@given(crons, zones, begins, st.lists(st.tuples(st.integers(10, 1000), st.integers(0, 1500)), min_size=1, max_size=3))
def test_every_due_time_runs_once(cron, zone, begin, periods):
    """Served and not served by turns, in minutes: what is due while serving runs then, the rest once at its start."""
    world = World(MemoryRegistry())
    world.now, world.job_s = begin, 1
    world.registry.add(make_schedule(cron=cron, time_zone=zone, added_at=begin))
    expected, dealt_with = [], begin
    for served, away in periods:
        start, end = world.now, world.now + timedelta(minutes=served)
        world.serve(end)
        due = list(takewhile(lambda time: time < end, due_after(cron, zone, dealt_with)))  # noqa: B023
        missed = [time for time in due if time <= start]
        expected += [start] * bool(missed) + due[len(missed) :]
        dealt_with = max([dealt_with, *due])
        world.now = end + timedelta(minutes=away)
    assert times(world) == expected
