"""When a cron expression is due by the words of `corm_batch.schedule.cron`, taken literally: one minute after another.

Shares nothing with the module but what the five fields allow. `python -m tests.schedule.check_zones` holds the two
together in every zone; test_cron.py in some.
"""

from bisect import bisect_right
from datetime import datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from corm_batch.schedule.cron import due_after, latest_due, next_due

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TURNING_ZONES = [  # whose clocks change in unusual ways: by half an hour, by two, at a quarter to, backwards
    *("Australia/Lord_Howe", "Pacific/Chatham", "America/St_Johns", "Antarctica/Troll"),
    *("Asia/Gaza", "Africa/Casablanca", "Europe/Dublin"),
]
SPARSE_CRONS = [
    *("30 2 * * *", "*/30 0 * * *", "30 * * * *", "0 */2 * * *", "*/15 3 * * *", "0 0 * * *", "15,45 1-3 * * *"),
    *("0 */5 * * SUN", "59 23 * * *", "5 0-23/3 1-7 * *", "0 3 L * *", "45 1 * * SUN#1", "20 2 */2 * SUN"),
]
CRONS = [
    *SPARSE_CRONS,
    *("* * * * *", "* 2 * * *", "0-59 0-3 * * *", "*/7 22,23,0-4 * * *", "0 1 * MAR,APR,SEP-NOV 5-7"),
]


class WallClock:
    """What the clocks of `zone` show in every real minute of a period, and a day before and after it."""

    def __init__(self, zone, start, end):
        self.start, self.end = start, end
        zone = ZoneInfo(zone)
        self.shown = []  # (real minute, wall time), every real minute
        self.first = {}  # wall time -> the first real minute that shows it; of a skipped one: the first after the gap
        time, before = (start - DAY).replace(second=0, microsecond=0), None
        while time < end + DAY:
            wall = time.astimezone(zone).replace(tzinfo=None)
            self.shown.append((time, wall))
            skipped = before + MINUTE if before is not None else wall
            while skipped <= wall:
                self.first.setdefault(skipped, time)
                skipped += MINUTE
            time, before = time + MINUTE, wall

    def due(self, cron):
        """Every due time of the period, ascending; its start is not part of it, its end is."""
        fields = CronSim(cron, datetime(2000, 1, 1))
        minute, hour, *_ = cron.split()
        if minute.startswith("*") or hour.startswith("*"):
            times = {time for time, wall in self.shown if allows(fields, wall)}
        else:
            times = {time for wall, time in self.first.items() if allows(fields, wall)}
        return sorted(time for time in times if self.start < time <= self.end)


def allows(fields, wall):
    """Whether the five fields allow a wall time."""
    return (
        wall.minute in fields.minutes
        and wall.hour in fields.hours
        and wall.month in fields.months
        and fields.match_day(wall.date())
    )


def changes(zone, start, end):
    """The first real minute after each clock change of a period."""
    zone, found, time = ZoneInfo(zone), [], start
    while time < end:
        if time.astimezone(zone).utcoffset() != (time + DAY).astimezone(zone).utcoffset():
            minute = next(
                time + number * MINUTE
                for number in range(1, 24 * 60 + 1)
                if (time + number * MINUTE).astimezone(zone).utcoffset()
                != (time + (number - 1) * MINUTE).astimezone(zone).utcoffset()
            )
            found.append(minute)
        time += DAY
    return found


def probes(change):
    """Moments about a clock change: minutes, and a second and less away from them."""
    minutes = (-1435, -181, -121, -61, -60, -31, -30, -1, 0, 1, 14, 29, 30, 59, 60, 61, 119, 120, 121, 180, 1439)
    offsets = [timedelta(minutes=number) for number in minutes]
    return [change + offset for offset in (*offsets, timedelta(seconds=-1), timedelta(microseconds=1))]


def _text(times):
    return ", ".join(f"{time:%F %H:%MZ}" for time in sorted(times)) or "none"


def difference(clock, zone, cron, moments):
    """Where the module and the oracle part over the period of `clock`, in words; None where they agree.

    Args:
        clock: `WallClock` of `zone`.
        zone, cron: what is asked.
        moments: times of the period from which the next and the latest due time are looked for.
    """
    due = clock.due(cron)
    found = list(takewhile(lambda time: time <= clock.end, due_after(cron, zone, clock.start)))
    if found != due:
        extra, missing = set(found) - set(due), set(due) - set(found)
        return f"{zone} {cron!r}: due_after has too many {_text(extra)}, too few {_text(missing)}, or is out of order"
    for moment in moments:
        place = bisect_right(due, moment)
        following, latest = next_due(cron, zone, moment), latest_due(cron, zone, moment)
        if place < len(due) and following != due[place]:
            return f"{zone} {cron!r}: next_due({moment:%F %TZ}) is {following}, right is {due[place]}"
        if place > 0 and latest != due[place - 1]:
            return f"{zone} {cron!r}: latest_due({moment:%F %TZ}) is {latest}, right is {due[place - 1]}"
    return None
