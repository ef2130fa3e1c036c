"""systemd units: right by systemd itself where it is there, by a strict parse everywhere; times exact or refused."""

import configparser
import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from corm_batch.errors import SpecError
from corm_batch.schedule.cron import due_after, valid_cron
from corm_batch.schedule.systemd import on_calendar, systemd_units
from tests.schedule.conftest import make_schedule

KNOWN = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *{"Type", "WorkingDirectory", "EnvironmentFile", "ExecStart"},
        *{"SuccessExitStatus", "KillMode", "TimeoutStopSec"},
    },
    "Timer": {"OnCalendar", "Persistent", "AccuracySec"},
    "Install": {"WantedBy"},
}
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def parsed(unit):
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(unit)
    assert all(set(parser[section]) <= KNOWN[section] for section in parser.sections())
    return parser


def test_units():
    units = systemd_units(make_schedule(time_zone="Europe/Berlin", cron="0 4 * * *"), "/etc/corm-batch.env")
    assert list(units) == ["corm-batch-nightly.service", "corm-batch-nightly.timer"]
    service, timer = (parsed(unit) for unit in units.values())
    assert service["Service"]["ExecStart"].endswith("-P -m corm_batch.cli run " + make_schedule().spec)
    assert service["Service"]["WorkingDirectory"] == make_schedule().directory
    assert service["Service"]["EnvironmentFile"] == "/etc/corm-batch.env"
    assert service["Service"]["KillMode"] == "mixed"
    assert timer["Timer"]["OnCalendar"] == "*-*-* 04:00:00 Europe/Berlin"
    assert timer["Timer"]["Persistent"] == "true"


@needs_systemd
@pytest.mark.parametrize("cron", ["0 4 * * *", "*/10 4-6 1,15 * MON"])
def test_units_pass_systemd_analyze(tmp_path, cron):
    units = systemd_units(make_schedule(cron=cron, overrides=("model.system=100% \"sure\" $HOME 'x' \\ ;\n#",)), None)
    for name, content in units.items():
        (tmp_path / name).write_text(content)
    verify = [
        "systemd-analyze",
        "verify",
        "--man=no",
        "--recursive-errors=one",
        *(str(tmp_path / name) for name in units),
    ]
    checked = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("cron", "expressions"),
    [
        ("0 2 * * *", ["*-*-* 02:00:00 UTC"]),
        ("*/20 * * * *", ["*-*-* *:00,20,40:00 UTC"]),
        ("* 5 * * *", ["*-*-* 05:*:00 UTC"]),
        ("5/20 9-11 * * MON,7", ["Sun,Mon *-*-* 09,10,11:05,25,45:00 UTC"]),
        ("0 2 1 JAN,7 *", ["*-01,07-01 02:00:00 UTC"]),
        ("0 2 1 * MON", ["Mon *-*-* 02:00:00 UTC", "*-*-01 02:00:00 UTC"]),
        ("0 2 */2 * MON", ["Mon *-*-01,03,05,07,09,11,13,15,17,19,21,23,25,27,29,31 02:00:00 UTC"]),
        ("0 2 1-31 * MON", ["*-*-* 02:00:00 UTC"]),
        ("0 2 1 * 0-6", ["*-*-* 02:00:00 UTC"]),
    ],
)
def test_on_calendar(cron, expressions):
    assert on_calendar(cron, "UTC") == expressions


@needs_systemd
@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("5/20 9-11 * * MON,7", "America/New_York"),
        ("0 2 1 * MON", "Asia/Kolkata"),
        ("0 4 */2 * MON", "Europe/Berlin"),
        ("0 12 31 * *", "Europe/Berlin"),
        ("0 0 29 2 *", "UTC"),
        ("17 * * * *", "Europe/Berlin"),
    ],
)
def test_systemd_elapses_when_cron_is_due(cron, zone):
    cron, begin = valid_cron(cron), datetime(2026, 3, 20, tzinfo=UTC)
    elapses = set()
    for expression in on_calendar(cron, zone):
        told = subprocess.run(
            ["systemd-analyze", "calendar", "--base-time=2026-03-20 00:00:00 UTC", "--iterations=30", expression],
            env={"TZ": "UTC", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in told.splitlines():
            head, _, time = line.strip().partition(": ")
            if head == "Next elapse" or head.startswith("Iter"):
                elapses.add(datetime.strptime(time.strip(), "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC))
    times = due_after(cron, zone, begin)
    assert sorted(elapses)[:30] == [next(times) for _ in range(30)]


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("30 2 * * *", "Europe/Berlin"),  # skipped in March: cron runs it after the gap, systemd does not
        ("*/20 1 * * *", "America/New_York"),  # comes twice in November
        ("0 * * * SUN", "Europe/Berlin"),
        ("*/20 * * * *", "Australia/Lord_Howe"),  # clocks change by half an hour
    ],
)
def test_times_that_a_clock_change_touches_are_refused(cron, zone):
    with pytest.raises(SpecError, match=f"cron: systemd would deal with the clock change of {zone} on 20"):
        on_calendar(cron, zone)


def test_every_hour_of_a_zone_is_every_hour():
    assert on_calendar("15 * * * *", "Europe/Berlin") == ["*-*-* *:15:00 UTC"]


def test_last_days_are_refused():
    with pytest.raises(SpecError, match=r"cron: L, LW and # are known to `schedule serve` alone.*got '0 2 L"):
        on_calendar("0 2 L * *", "UTC")
