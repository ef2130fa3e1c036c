"""Due times: clock changes, forwards against backwards, and what is refused."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile
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

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Antarctica/Troll"]
CHANGES = [  # UTC days around which some zone changes its clocks
    datetime(2026, *day, tzinfo=UTC) for day in ((3, 7), (3, 28), (4, 4), (10, 3), (10, 24), (10, 31), (6, 15))
]


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


@settings(max_examples=100, deadline=None)
@given(crons, st.sampled_from(ZONES), st.sampled_from(CHANGES), st.integers(0, 4 * 24 * 60))
def test_latest_and_next_agree_with_going_through_all(cron, zone, change, minutes):
    """Around clock changes: ascending, nothing twice, and backwards finds what forwards does."""
    cron = " ".join(cron)
    now = change - timedelta(days=1) + timedelta(minutes=minutes)
    begin = now - timedelta(days=16)  # a weekly time may fall into a gap
    past = list(takewhile(lambda due: due <= now, due_after(cron, zone, begin)))
    assert past == sorted(set(past))
    assert all(due.second == 0 for due in past)
    assert latest_due(cron, zone, now) == past[-1]
    following = next_due(cron, zone, now)
    assert following > now
    assert latest_due(cron, zone, following) == following
    assert next_due(cron, zone, following - timedelta(seconds=1)) == following
    assert latest_due(cron, zone, following - timedelta(seconds=1)) == past[-1]


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


@settings(max_examples=60, deadline=None)
@given(crons, st.sampled_from(CHANGES))
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
