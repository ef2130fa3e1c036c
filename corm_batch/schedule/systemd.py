"""A schedule as a systemd service and timer.

A cron expression becomes OnCalendar= exactly or not at all. systemd leaves out a time that a clock change skips and
runs one that comes twice the first time only; where that differs from cron, the schedule is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from corm_batch.errors import SpecError
from corm_batch.exit_codes import ExitCode
from corm_batch.schedule.clock_changes import first_difference
from corm_batch.schedule.cron import CronFields, cron_fields
from corm_batch.schedule.schedule import Schedule

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")

_SERVICE = """\
# Install both files in ~/.config/systemd/user (with `loginctl enable-linger`, to run while nobody is logged in), then:
#   systemctl --user daemon-reload && systemctl --user enable --now {unit}.timer
[Unit]
Description=corm-batch job {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={directory}
{environment}ExecStart={command}
# told to stop, everything finished is committed
SuccessExitStatus={told_to_stop}
# only the job itself is told to stop; it has this long to commit
KillMode=mixed
TimeoutStopSec=90
"""

_TIMER = """\
[Unit]
Description=corm-batch job {name}: {cron} {time_zone}

[Timer]
{calendar}
# a run missed while the machine was off is caught up once
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def systemd_units(schedule: Schedule, environment_file: str | None) -> dict[str, str]:
    """File name to content of a .service and a .timer.

    Args:
        schedule: what runs when.
        environment_file: a file of NAME=value lines that the job's environment gets, for its secrets.

    Raises:
        SpecError: the cron expression has no exact counterpart.
    """
    unit = f"corm-batch-{schedule.name}"
    service = _SERVICE.format(
        unit=unit,
        name=schedule.name,
        directory=schedule.directory.replace("%", "%%"),
        environment="" if environment_file is None else f"EnvironmentFile={environment_file.replace('%', '%%')}\n",
        command=" ".join(_quoted(argument) for argument in schedule.command()),
        told_to_stop=int(ExitCode.INTERRUPTED),
    )
    timer = _TIMER.format(
        name=schedule.name,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        calendar="\n".join(f"OnCalendar={expression}" for expression in on_calendar(schedule.cron, schedule.time_zone)),
    )
    return {f"{unit}.service": service, f"{unit}.timer": timer}


def on_calendar(cron: str, time_zone: str) -> list[str]:
    """Calendar expressions that together elapse exactly when `cron` is due.

    Raises:
        SpecError: L, LW or # in it, or systemd would deal with a clock change in another way.
    """
    try:
        fields = cron_fields(cron)
    except ValueError as error:
        raise SpecError(f"cron: {error}, got {cron!r}") from error
    zones = [time_zone]
    if cron.split()[1:] == ["*"] * 4:
        zones.append("UTC")  # every hour of every day: the same in both, but for zones with half hours
    for zone in zones:
        change = first_difference(cron, time_zone, partial(_elapses, cron, ZoneInfo(zone)))
        if change is None:
            return [f"{expression} {zone}" for expression in _expressions(fields)]
    raise SpecError(
        f"cron: systemd would deal with the clock change of {time_zone} on {change:%Y-%m-%d} in another way, "
        f"got {cron!r}; choose a time of day that no clock change touches, or the time zone UTC"
    )


def _expressions(fields: CronFields) -> list[str]:
    """One expression, or two when a day of the month or a day of the week is enough."""
    weekdays = "" if fields.every_weekday else ",".join(_WEEKDAYS[day] for day in fields.weekdays) + " "
    days = "*" if fields.every_day else _numbers(fields.days)
    months = "*" if len(fields.months) == 12 else _numbers(fields.months)
    hours = "*" if len(fields.hours) == 24 else _numbers(fields.hours)
    time = f"{hours}:{'*' if len(fields.minutes) == 60 else _numbers(fields.minutes)}:00"
    if fields.both_days:
        return [f"{weekdays}*-{months}-{days} {time}"]
    if not weekdays or days == "*":
        return [f"*-{months}-* {time}"]
    return [f"{weekdays}*-{months}-* {time}", f"*-{months}-{days} {time}"]


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(f"{value:02d}" for value in values)


def _elapses(cron: str, zone: ZoneInfo, start: datetime, stop: datetime) -> list[datetime]:
    """When systemd runs the wall-clock times of `cron`, after `start` and until `stop`."""
    first = start.astimezone(zone).replace(tzinfo=None) - timedelta(hours=3)
    last = stop.astimezone(zone).replace(tzinfo=None) + timedelta(hours=3)
    walls = takewhile(lambda wall: wall <= last, CronSim(cron, first))
    there = (wall.replace(tzinfo=zone).astimezone(UTC) for wall in walls if not _is_skipped(wall, zone))
    return [time for time in there if start < time <= stop]


def _is_skipped(wall: datetime, zone: ZoneInfo) -> bool:
    """Whether no clock of `zone` ever shows `wall`."""
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall


def _quoted(argument: str) -> str:
    """One word of a command line in a unit file."""
    text = argument.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%").replace("$", "$$")
    plain = text == argument and argument and not any(char.isspace() or char in "'\";#" for char in argument)
    return text if plain else f'"{text}"'
