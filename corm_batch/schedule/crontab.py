"""A schedule as lines of a crontab."""

from __future__ import annotations

import shlex

from corm_batch.errors import SpecError
from corm_batch.schedule.cron import portable_cron
from corm_batch.schedule.schedule import Schedule


def crontab_lines(schedule: Schedule, environment_file: str | None) -> str:
    """What to add to the crontab of the user who runs the job.

    Args:
        schedule: what runs when.
        environment_file: a shell file of NAME=value lines that the job's environment gets, for its secrets.

    Raises:
        SpecError: the cron expression has what only `schedule serve` knows, or a line break stands in the command.
    """
    try:
        cron = portable_cron(schedule.cron)
    except ValueError as error:
        raise SpecError(f"cron: {error}, got {schedule.cron!r}") from error
    steps = [f"cd {shlex.quote(schedule.directory)}"]
    if environment_file is not None:
        steps.append(f"set -a && . {shlex.quote(environment_file)} && set +a")
    command = " && ".join([*steps, f"exec {shlex.join(schedule.command())}"])
    if "\n" in command:
        raise SpecError(f"a crontab has one line for a command, got a line break in {command!r}")
    return "\n".join(
        [
            f"# corm-batch job {schedule.name}. cronie reads CRON_TZ, for all lines below; other crons go by the",
            "# time zone of the machine. cron does not catch up runs missed while the machine was off.",
            f"CRON_TZ={schedule.time_zone}",
            f"{cron} {command.replace('%', chr(92) + '%')}",  # a bare % would end the command
            "",
        ]
    )
