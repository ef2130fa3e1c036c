"""Due times: clock changes, forwards against backwards, and what is refused."""

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import cycle, islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.schedule.cron import (
    due_after,
    latest_due,
    next_due,
    portable_cron,
    valid_cron,
    valid_time_zone,
)
from tests.schedule.oracle import CRONS, DAY, TURNING_ZONES, WallClock, changes, difference, probes

ZONES = [*TURNING_ZONES, "America/Nuuk", "Europe/Berlin", "America/Santiago", "Asia/Almaty", "UTC"]
YEARS = datetime(2026, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC)


def field(low, high):
    number = st.integers(low, high).map(str)
    some = st.lists(number, min_size=1, max_size=3, unique=True).map(",".join)
    return st.one_of(st.just("*"), number, some, st.integers(2, 7).map("*/{}".format))


crons = st.tuples(field(0, 59), field(0, 23), st.just("*"), st.just("*"), st.one_of(st.just("*"), field(0, 7)))


def local_times(cron, zone, start, days):
    """Due times as wall clock and offset."""
    end = start + timedelta(days=days)
    return [
        f"{due.astimezone(ZoneInfo(zone)):%d %H:%M %z}"
        for due in takewhile(lambda due: due < end, due_after(cron, zone, start))
    ]


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("30 2 * * *", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("0 3 * * *", ["28 03:00 +0100", "29 03:00 +0200", "30 03:00 +0200"]),
    ],
)
def test_a_time_that_is_skipped_is_due_after_the_gap(cron, times):
    assert local_times(cron, "Europe/Berlin", datetime(2026, 3, 27, 23, tzinfo=UTC), 3) == times


def test_a_time_that_comes_twice_is_due_the_first_time():
    times = local_times("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 23, 22, tzinfo=UTC), 3)
    assert times == ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]


def test_every_hour_is_every_real_hour():
    start = datetime(2026, 10, 24, 22, 30, tzinfo=UTC)
    times = local_times("0 * * * *", "Europe/Berlin", start, 0.2)
    assert times == ["25 01:00 +0200", "25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100", "25 04:00 +0100"]


@pytest.mark.parametrize(
    ("find", "cron", "zone", "time", "due"),
    [
        (latest_due, "0 */2 * * *", "Pacific/Chatham", "2026-04-04 12:00", "2026-04-04 10:15"),
        (latest_due, "*/30 2 * * *", "Pacific/Chatham", "2026-04-04 14:10", "2026-04-04 12:45"),
        (latest_due, "*/30 2 * * *", "Pacific/Chatham", "2026-04-04 12:00", "2026-04-03 12:45"),
        (next_due, "*/15 3 * * *", "Pacific/Chatham", "2026-04-04 13:45", "2026-04-04 14:15"),
        (latest_due, "* 0 * * *", "Australia/Lord_Howe", "2026-04-04 13:30", "2026-04-04 13:30"),
        (next_due, "* 2 * * *", "Australia/Lord_Howe", "2026-04-04 14:59", "2026-04-04 15:30"),
        (next_due, "30 * * * *", "Australia/Lord_Howe", "2026-04-04 14:31", "2026-04-04 15:00"),
        (next_due, "30 * * * *", "Australia/Lord_Howe", "2026-04-04 15:00", "2026-04-04 16:00"),
        (next_due, "30 5 * * *", "Pacific/Apia", "2011-12-29 16:00", "2011-12-30 10:00"),  # a whole day is skipped
        (next_due, "0 0 29 2 */7", "UTC", "2088-02-29 00:00", "2128-02-29 00:00"),  # a Sunday, forty years on
        (latest_due, "0 0 29 2 */7", "UTC", "2128-02-28 23:59", "2088-02-29 00:00"),
    ],
)
def test_around_clock_changes(find, cron, zone, time, due):
    """Times of UTC."""
    time, due = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (time, due))
    assert find(cron, zone, time) == due


@pytest.mark.parametrize("year", [1, 9999])
def test_at_the_ends_of_the_calendar_nothing_is_due(year):
    time = datetime(year, 1 if year == 1 else 12, 1 if year == 1 else 31, tzinfo=UTC)
    assert (latest_due if year == 1 else next_due)("* * * * *", "Pacific/Chatham", time) is None


@pytest.mark.parametrize("zone", ZONES)
def test_agrees_with_going_through_every_minute(zone):
    """All clock changes of a zone in three years, each with two of the expressions of `check_zones` in turn."""
    crons = cycle(CRONS)
    for change in changes(zone, *YEARS) or [YEARS[0]]:
        clock = WallClock(zone, change - DAY, change + DAY)
        for cron in islice(crons, 2):
            assert difference(clock, zone, cron, probes(change)) is None


@cache
def first_change(zone):
    """Of 2026, and what the clocks show around it."""
    change = next(iter(changes(zone, datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))), YEARS[0])
    return change, WallClock(zone, change - DAY, change + DAY)


@settings(max_examples=60)
@given(crons, st.sampled_from(ZONES), st.integers(-24 * 60 + 1, 24 * 60))
def test_any_expression_agrees_with_going_through_every_minute(cron, zone, minutes):
    change, clock = first_change(zone)
    moment = change + timedelta(minutes=minutes)
    moments = [moment, moment + timedelta(seconds=1), moment - timedelta(microseconds=1)]
    assert difference(clock, zone, " ".join(cron), moments) is None


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("", "expected five fields"),
        ("@daily", "expected five fields"),
        ("0 0 2 * * *", "expected five fields"),
        ("60 2 * * *", "bad minute; expected five fields: minute .0-59."),
        ("0 2 * * FUNDAY", "bad day-of-week"),
        ("0 2 30 2 *", "bad day-of-month"),
        ("0 2 * * 5L/2", "bad day-of-week|a step over L"),
        ("0 2 -1 * *", "bad day-of-month"),
    ],
)
def test_wrong_expressions_are_refused(cron, message):
    with pytest.raises(ValueError, match=message):
        valid_cron(cron)


def test_expressions_are_normalised():
    assert valid_cron("  0 2 *  jan mon-fri ") == "0 2 * JAN MON-FRI"


def test_unknown_time_zone_names_its_neighbours():
    assert valid_time_zone("Europe/Berlin") == "Europe/Berlin"
    with pytest.raises(ValueError, match="Europe/Berlin"):
        valid_time_zone("Europe/Berln")
    with pytest.raises(ValueError, match="for example UTC"):
        valid_time_zone("")


@settings(max_examples=60)
@given(crons, st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)))
def test_portable_notation_is_due_at_the_same_times(cron, start):
    cron = valid_cron(" ".join(cron))
    times = due_after(cron, "UTC", start)
    same = due_after(portable_cron(cron), "UTC", start)
    assert [next(times) for _ in range(20)] == [next(same) for _ in range(20)]


@pytest.mark.parametrize(
    ("cron", "portable"),
    [
        ("5/20 9-11 * * MON,7", "5,25,45 9,10,11 * * 0,1"),
        ("*/15 * 1-3 JAN *", "*/15 * 1,2,3 1 *"),
    ],
)
def test_portable_notation(cron, portable):
    assert portable_cron(cron) == portable


@pytest.mark.parametrize("cron", ["0 2 L * *", "0 2 LW * *", "0 2 * * 5L", "0 2 * * MON#2"])
def test_last_and_nth_days_are_for_serve_alone(cron):
    assert next_due(valid_cron(cron), "UTC", datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="known to `schedule serve` alone"):
        portable_cron(cron)
