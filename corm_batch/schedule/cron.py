"""When a cron expression is due: five fields as Debian's cron reads them, in a time zone with its clock changes.

A time of day that a clock change skips is due at the first moment after the gap; one that comes twice is due the first
time. An expression whose minute or hour starts with `*` counts real time instead: it is due whenever the clock shows
such a time, so twice in an hour that comes twice, and not at all in one that is skipped.

CronSim reads the fields and says which days they mean. When that is in real time is worked out here: around clock
changes CronSim and other libraries for cron differ from the above, above all where clocks change by half an hour or at
a quarter past, and CronSim may not return. Times in and out are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

_ALLOWED = (
    "expected five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or JAN-DEC), "
    "day of week (0-7 or SUN-SAT; 0 and 7 are Sunday)"
)
_LONGEST_WAIT_DAYS = 50 * 366  # a 29 February on a given day of the week may take forty years to come
_FIRST_DAY, _LAST_DAY = date(1, 1, 3).toordinal(), date(9999, 12, 29).toordinal()  # all offsets stay in range
_CACHED_DAYS = 64
_MINUTE = timedelta(minutes=1)
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
        _fields(cron)
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; {_ALLOWED}") from None
    except (AssertionError, TypeError):  # what CronSim makes of steps over L and #
        raise ValueError(f"a step over L or #; {_ALLOWED}") from None
    if next_due(cron, "UTC", datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise ValueError("never due: no month has such a day")
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
    """Every due time later than `after`, ascending; ends after fifty years without one."""
    day = after.astimezone(UTC).toordinal()
    last = day + _LONGEST_WAIT_DAYS
    while day <= last:
        for due in _due_on(cron, time_zone, day):
            if due > after:
                yield due
                last = day + _LONGEST_WAIT_DAYS
        day += 1


def next_due(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """The first due time later than `after`; None when there is none for fifty years."""
    return next(due_after(cron, time_zone, after), None)


def latest_due(cron: str, time_zone: str, until: datetime) -> datetime | None:
    """The last due time not later than `until`; None when there was none for fifty years."""
    today = until.astimezone(UTC).toordinal()
    for day in range(today, today - _LONGEST_WAIT_DAYS, -1):
        for due in reversed(_due_on(cron, time_zone, day)):
            if due <= until:
                return due
    return None


@cache
def _fields(cron: str) -> CronSim:
    """The fields as CronSim reads them; its own walk through time is not used.

    Raises:
        CronSimError, AssertionError, TypeError: not valid.
    """
    return CronSim(cron, datetime(2000, 1, 1))


@lru_cache(maxsize=_CACHED_DAYS)
def _due_on(cron: str, time_zone: str, day: int) -> tuple[datetime, ...]:
    """The due times of one day of UTC, ascending, once each; `day` is its ordinal.

    The clocks of that day show its date, the date before or the date after, wherever on Earth and whatever changes.
    """
    fields, zone, found = _fields(cron), ZoneInfo(time_zone), set[datetime]()
    if not _FIRST_DAY <= day <= _LAST_DAY:
        return ()
    for local in map(date.fromordinal, (day - 1, day, day + 1)):
        if local.month in fields.months and fields.match_day(local):
            found.update(_due_by_date(cron, zone, local))
    return tuple(sorted(due for due in found if due.toordinal() == day))


def _due_by_date(cron: str, zone: ZoneInfo, local: date) -> Iterable[datetime]:
    """When the clocks of `zone` show, or skip, what hour and minute allow on the date `local`; in no order."""
    fields, starred = _fields(cron), any(field.startswith("*") for field in cron.split()[:2])
    for minutes in (60 * hour + minute for hour in fields.hours for minute in fields.minutes):
        wall = datetime(local.year, local.month, local.day, *divmod(minutes, 60), tzinfo=zone)
        first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)  # equal but around a change
        if first > second:  # PEP 495: skipped. The gap lies between the two
            if not starred:
                yield _end_of_gap(zone, second, first)
        else:
            yield first
            if starred:
                yield second


def _end_of_gap(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The first minute later than `before` that has the offset of `after`: one clock change lies between the two."""
    offset = after.astimezone(zone).utcoffset()
    while (before := before + _MINUTE).astimezone(zone).utcoffset() != offset:
        pass
    return before


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
    parsed = _fields(cron)
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
