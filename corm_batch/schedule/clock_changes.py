"""Clock changes to come, and whether another scheduler deals with each of them as cron does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from corm_batch.schedule.cron import due_after

_YEARS_AHEAD = 10
_AROUND = timedelta(days=2)

DueBetween = Callable[[datetime, datetime], list[datetime]]
"""When a scheduler runs something, later than the first time and until the second, ascending; all times in UTC."""


def first_difference(cron: str, time_zone: str, theirs: DueBetween) -> datetime | None:
    """The first clock change of `time_zone` around which `cron` is not due as `theirs` says, to the day; None for none
    in the next ten years."""
    local = ZoneInfo(time_zone)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (today + timedelta(days=number) for number in range(365 * _YEARS_AHEAD)):
        if day.astimezone(local).utcoffset() != (day + timedelta(days=1)).astimezone(local).utcoffset():
            start, stop = day - _AROUND, day + _AROUND
            if _due(cron, time_zone, start, stop) != theirs(start, stop):
                return day
    return None


def _due(cron: str, time_zone: str, start: datetime, stop: datetime) -> list[datetime]:
    return list(takewhile(lambda time: time <= stop, due_after(cron, time_zone, start)))
