"""When a cron expression is due: five fields as Debian's cron reads them, in a time zone with its clock changes.

A time of day that a clock change skips is due at the first moment after the gap; one that comes twice is due the first
time. An expression whose minute or hour starts with `*` counts real hours instead: an hour that comes twice counts
twice, one that is skipped not at all. Times in and out are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

_ALLOWED = (
    "expected five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or JAN-DEC), "
    "day of week (0-7 or SUN-SAT; 0 and 7 are Sunday)"
)
_LONGEST_CHANGE = timedelta(hours=3)  # no zone turns its clocks by more
_ALL_DAYS = frozenset(range(7))


def valid_cron(expression: str) -> str:
    """`expression` in capitals with single spaces, once it is known to be due some day.

    Raises:
        ValueError: not five fields, a wrong field, or a date that never comes.
    """
    cron = " ".join(expression.upper().split())
    if len(cron.split()) != 5:
        raise ValueError(_ALLOWED)
    try:
        next(CronSim(cron, datetime(2000, 1, 1)))
    except StopIteration:
        raise ValueError("never due: no month has such a day") from None
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; {_ALLOWED}") from None
    except (AssertionError, TypeError):  # what CronSim makes of steps over L and #
        raise ValueError(f"a step over L or #; {_ALLOWED}") from None
    return cron


def valid_time_zone(name: str) -> str:
    """`name`, once it is known to be a time zone of this machine.

    Raises:
        ValueError: unknown; names that look alike are given.
    """
    known = _time_zones()
    if name not in known:
        close = ", ".join(get_close_matches(name, sorted(known))) or "for example UTC or Europe/Berlin"
        raise ValueError(f"expected a time zone of the IANA database: {close}")
    return name


@cache
def _time_zones() -> frozenset[str]:
    """All names there are; finding them means to walk a folder tree."""
    return frozenset(available_timezones())


def due_after(cron: str, time_zone: str, after: datetime) -> Iterator[datetime]:
    """Every due time later than `after`, ascending."""
    for local in CronSim(cron, after.astimezone(ZoneInfo(time_zone))):
        due = local.astimezone(UTC)
        if due > after:  # in an hour that comes twice, CronSim may name what was due in its first half
            yield due


def next_due(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """The first due time later than `after`; None when there is none for fifty years."""
    return next(due_after(cron, time_zone, after), None)


def latest_due(cron: str, time_zone: str, until: datetime) -> datetime | None:
    """The last due time not later than `until`; None when there was none for fifty years."""
    start = until + _LONGEST_CHANGE  # in an hour that comes twice, CronSim would overlook its first half
    for local in CronSim(cron, start.astimezone(ZoneInfo(time_zone)), reverse=True):
        due = local.astimezone(UTC)
        if due <= until:
            return due
    return None


@dataclass(frozen=True)
class CronFields:
    """What the five fields allow, as numbers.

    Attributes:
        minutes, hours, days, months: ascending; days of the month.
        weekdays: 0 (Sunday) to 6, ascending.
        both_days: a date must be right by day of month and by day of week; else one of the two is enough.
        starred: for each field whether it starts with `*`.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    both_days: bool
    starred: tuple[bool, bool, bool, bool, bool]

    @property
    def every_weekday(self) -> bool:
        """Whether the day of week allows all seven."""
        return _ALL_DAYS.issubset(self.weekdays)

    @property
    def every_day(self) -> bool:
        """Whether the day of month allows 1 to 31."""
        return len(self.days) == 31


@cache
def cron_fields(cron: str) -> CronFields:
    """The fields of a valid expression.

    Raises:
        ValueError: L, LW or # in a day, which only `schedule serve` understands.
    """
    parsed = CronSim(cron, datetime(2000, 1, 1))
    days = [*parsed.days, *parsed.weekdays]
    if not all(isinstance(day, int) and day >= 0 for day in days):
        raise ValueError("L, LW and # are known to `schedule serve` alone; expected days as numbers, ranges and steps")
    minute, hour, day, month, weekday = (field.startswith("*") for field in cron.split())
    return CronFields(
        minutes=tuple(sorted(parsed.minutes)),
        hours=tuple(sorted(parsed.hours)),
        days=tuple(sorted(parsed.days)),
        months=tuple(sorted(parsed.months)),
        weekdays=tuple(sorted({number % 7 for number in parsed.weekdays if isinstance(number, int)})),
        both_days=parsed.day_and,
        starred=(minute, hour, day, month, weekday),
    )


def portable_cron(cron: str) -> str:
    """The same due times in the notation all crons share: numbers, commas and what starts with `*`.

    Raises:
        ValueError: as `cron_fields`.
    """
    fields = cron_fields(cron)
    numbers = (fields.minutes, fields.hours, fields.days, fields.months, fields.weekdays)
    return " ".join(
        given if starred else ",".join(map(str, allowed))
        for given, starred, allowed in zip(cron.split(), fields.starred, numbers, strict=True)
    )
