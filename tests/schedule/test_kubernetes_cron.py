"""Cron expressions for Kubernetes: right at every clock change, or refused."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from corm_batch.errors import SpecError
from corm_batch.schedule.kubernetes_cron import _runs, kubernetes_cron


@pytest.mark.parametrize(
    ("cron", "rendered"),
    [("0 2 * * 7", "0 2 * * 0"), ("0 2 */2 * *", "0 2 */2 * *"), ("0 2 1 * MON", "0 2 1 * 1")],
)
def test_cron_as_kubernetes_reads_it(cron, rendered):
    assert kubernetes_cron(cron, "UTC") == rendered


@pytest.mark.parametrize("cron", ["0 2 */2 * MON", "0 2 L * *"])
def test_cron_that_kubernetes_reads_in_another_way_is_refused(cron):
    with pytest.raises(SpecError, match="cron: "):
        kubernetes_cron(cron, "UTC")


@pytest.mark.parametrize(
    ("cron", "after", "runs"),
    [  # from the tests of robfig/cron itself, in its notation less the seconds
        ("30 2 11 3 *", "2012-03-11T00:00-05:00", ["2013-03-11T02:30-04:00"]),
        ("0 * * * *", "2012-03-11T00:00-05:00", ["2012-03-11T01:00-05:00", "2012-03-11T03:00-04:00"]),
        ("0 2 * * *", "2012-03-11T00:00-05:00", ["2012-03-12T02:00-04:00"]),
        (
            "0 1 * * *",
            "2012-11-04T00:00-04:00",
            ["2012-11-04T01:00-04:00", "2012-11-04T01:00-05:00", "2012-11-05T01:00-05:00"],
        ),
        ("0 0 29 2 *", "2012-03-01T00:00-05:00", ["2016-02-29T00:00-05:00"]),
        ("0 0 1 1 *", "2012-12-31T23:59-05:00", ["2013-01-01T00:00-05:00"]),
        ("5/15 10-12 * * *", "2012-07-09T12:50-04:00", ["2012-07-10T10:05-04:00", "2012-07-10T10:20-04:00"]),
    ],
)
def test_the_search_is_that_of_the_library(cron, after, runs):
    found = _runs(cron, ZoneInfo("America/New_York"), datetime.fromisoformat(after).astimezone(UTC))
    assert [next(found) for _ in runs] == [datetime.fromisoformat(run) for run in runs]


def test_a_midnight_that_is_skipped_costs_no_day():
    found = _runs("0 9 10,22 * *", ZoneInfo("America/Sao_Paulo"), datetime.fromisoformat("2018-11-03T05:00-04:00"))
    assert next(found) == datetime.fromisoformat("2018-11-10T06:00-05:00")


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("30 2 * * *", "Europe/Berlin"),  # skipped in March: cron is due at three; twice in October
        ("15,45 1-3 * * *", "America/New_York"),
        ("0 0 * * *", "America/Havana"),
        ("45 1 * * *", "Australia/Lord_Howe"),  # whose clocks change by half an hour
        ("50 3 * * *", "Pacific/Chatham"),  # at a quarter to: it is not found there
    ],
)
def test_clock_changes_that_are_dealt_with_in_another_way_are_named(cron, zone):
    with pytest.raises(SpecError, match=rf"cron: .* the clock change of {zone} on 20\d\d-\d\d-\d\d in another way"):
        kubernetes_cron(cron, zone)


@pytest.mark.parametrize(
    ("cron", "zone"), [("0 5 * * *", "Europe/Berlin"), ("*/30 2 * * *", "Europe/Berlin"), ("30 2 * * *", "Asia/Tokyo")]
)
def test_clock_changes_that_touch_nothing_are_no_hindrance(cron, zone):
    assert kubernetes_cron(cron, zone) == cron
