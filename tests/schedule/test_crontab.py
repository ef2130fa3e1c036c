"""Crontab lines: the expression read back by a cron library, the command by a shell."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from itertools import islice

import pytest
from cronsim import CronSim

from corm_batch.errors import SpecError
from corm_batch.schedule.crontab import crontab_lines
from corm_batch.schedule.schedule import Schedule
from tests.schedule.conftest import make_schedule


def parts(lines):
    """The variable, the five fields and the command of the only entry."""
    variable, entry = [line for line in lines.splitlines() if not line.startswith("#")]
    fields = entry.split(" ", 5)
    return variable, " ".join(fields[:5]), fields[5]


@pytest.mark.parametrize("cron", ["0 2 * * *", "5/20 9-11 * JAN-MAR MON,7", "*/15 * 1 * MON"])
def test_it_is_due_at_the_same_times(cron):
    variable, fields, _ = parts(crontab_lines(make_schedule(cron=cron, time_zone="Europe/Berlin"), None))
    assert variable == "CRON_TZ=Europe/Berlin"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert list(islice(CronSim(fields, start), 50)) == list(islice(CronSim(cron, start), 50))


def test_a_shell_reads_the_command_back(tmp_path, monkeypatch):
    """What cron hands to the shell, once it has taken the backslash from each percent sign."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "secrets.env").write_text("TOKEN=canary\n")
    told = [
        sys.executable,
        "-c",
        "import json, os, sys; print(json.dumps([os.getcwd(), os.environ['TOKEN'], sys.argv]))",
    ]
    override = "model.system=100% \"sure\" $HOME 'x' \\"
    monkeypatch.setattr(Schedule, "command", lambda self: [*told, *self.arguments()])
    schedule = make_schedule(directory=str(folder), overrides=(override,), retry_failed=True)
    lines = crontab_lines(schedule, str(folder / "secrets.env"))
    assert "canary" not in lines
    _, _, command = parts(lines)
    assert "%" not in command.replace("\\%", "")
    shell = subprocess.run(["sh", "-c", command.replace("\\%", "%")], capture_output=True, text=True, check=True)
    assert json.loads(shell.stdout) == [str(folder), "canary", ["-c", *schedule.arguments()]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cron": "0 2 LW * *"}, "cron: L, LW and # are known to `schedule serve` alone.*got '0 2 LW"),
        ({"overrides": ("model.system=a\nb",)}, "one line for a command, got a line break"),
    ],
)
def test_what_a_crontab_cannot_hold_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        crontab_lines(make_schedule(**changes), None)
