"""A cron expression as Kubernetes and KubeRay read it, or why they would run it at other times.

Both use the Go library robfig/cron. It runs whatever the clock shows: a time of day that a clock change skips not at
all, one that comes twice twice. Around changes that are not by whole hours at a full hour it does otherwise again, so
its search for the next time is followed here step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from corm_batch.errors import SpecError
from corm_batch.schedule.clock_changes import first_difference
from corm_batch.schedule.cron import cron_fields, portable_cron

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def kubernetes_cron(cron: str, time_zone: str) -> str:
    """`cron` in the notation that is read there, once it is known to be due at the same times.

    Raises:
        SpecError: it has no counterpart there, or a clock change of `time_zone` would be dealt with in another way.
    """
    try:
        fields = cron_fields(cron)
        portable = portable_cron(cron)
    except ValueError as error:
        raise SpecError(f"cron: {error}, got {cron!r}") from error
    _, _, day, _, weekday = cron.split()
    stepped = any(field.startswith("*") and field != "*" for field in (day, weekday))
    if fields.both_days and stepped and "*" not in (day, weekday):
        raise SpecError(
            f"cron: Kubernetes takes a date that is right by day of month or by day of week, cron one that is right by "
            f"both, where one of them is a step over *; got {cron!r}; give one of the two as *"
        )

    def theirs(start: datetime, stop: datetime) -> list[datetime]:
        return list(takewhile(lambda time: time <= stop, _runs(cron, ZoneInfo(time_zone), start)))

    if (change := first_difference(cron, time_zone, theirs)) is not None:
        raise SpecError(
            f"cron: Kubernetes would deal with the clock change of {time_zone} on {change:%Y-%m-%d} in another way (a "
            f"time that is skipped is left out there, one that comes twice runs twice), got {cron!r}; choose a time of "
            "day that no clock change touches, or the time zone UTC"
        )
    return portable


def _runs(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """When Kubernetes runs `cron`, ascending from `after`, a whole minute."""
    fields, cut = CronSim(cron, datetime(2000, 1, 1)), False
    while True:
        again = True
        after += _MINUTE
        while again:
            after, cut, again = _step(fields, zone, after, cut)
        yield after
        cut = True  # its search goes on with seconds, by which it comes to the next whole minute


def _step(fields: CronSim, zone: ZoneInfo, at: datetime, cut: bool) -> tuple[datetime, bool, bool]:
    """One pass of `SpecSchedule.Next` of robfig/cron v3 over month, day, hour and minute.

    Returns:
        The time reached, whether what is smaller than a field was set to its beginning, and whether a larger field
        came round, so that another pass is needed.
    """
    local = at.astimezone(zone)
    while local.month not in fields.months:
        first = local.replace(day=1) if cut else datetime(local.year, local.month, 1)
        at, cut = _instant((first + 31 * _DAY).replace(day=1, tzinfo=None), zone), True
        local = at.astimezone(zone)
        if local.month == 1:
            return at, cut, True
    while not fields.match_day(local.date()):
        wall = local.replace(tzinfo=None) if cut else datetime(local.year, local.month, local.day)
        at, cut = _instant(wall + _DAY, zone), True
        hour = at.astimezone(zone).hour
        at += (24 - hour if hour > 12 else -hour) * _HOUR  # midnight was skipped
        local = at.astimezone(zone)
        if local.day == 1:
            return at, cut, True
    while local.hour not in fields.hours:
        at, cut = (at if cut else _instant(local.replace(minute=0, tzinfo=None), zone)) + _HOUR, True
        local = at.astimezone(zone)
        if local.hour == 0:
            return at, cut, True
    while local.minute not in fields.minutes:
        at, cut = at + _MINUTE, True
        local = at.astimezone(zone)
        if local.minute == 0:
            return at, cut, True
    return at, cut, False


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """When the clocks of `zone` show `wall`, as Go's `time.Date` decides where they show it twice or never."""
    guess = wall.replace(tzinfo=UTC)
    return guess - _offset(guess - _offset(guess, zone), zone)


def _offset(at: datetime, zone: ZoneInfo) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset
