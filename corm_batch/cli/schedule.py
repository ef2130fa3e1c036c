"""`corm-batch schedule`: jobs at their times, here (`serve`) or handed to another scheduler (`render`)."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corm_batch.cli.cluster_options import checked_address
from corm_batch.cli.console import error_console, label, output_console, print_json, print_table, prose
from corm_batch.cli.examples import examples_of
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath, refuse_standard_input
from corm_batch.cli.schedule_options import ClusterAddress, Registry, ScheduleName, open_registry
from corm_batch.cli.schedule_render import render
from corm_batch.errors import LeaseError, SpecError
from corm_batch.report.units import seconds_text

if TYPE_CHECKING:
    from datetime import datetime

    from corm_batch.schedule.schedule import RunState, Schedule

app = typer.Typer(
    help="Run jobs at their times: add, list, remove, serve, render.",
    epilog=examples_of("schedule"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog=examples_of("schedule add"))
def add(
    name: ScheduleName,
    spec: SpecPath,
    cron: Annotated[str, typer.Option(metavar="EXPRESSION", help="Five fields, for example '0 2 * * *'.")],
    time_zone: Annotated[str, typer.Option(metavar="ZONE", help="In which the expression is read.")] = "UTC",
    overrides: Overrides = None,
    plugins: Plugins = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Answer failed documents again.")] = False,
    address: ClusterAddress = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a schedule of that name.")] = False,
    registry: Registry = None,
) -> None:
    """Keep a schedule, once its spec, cron expression and time zone are known to be right."""
    from corm_batch.schedule.schedule import Schedule
    from corm_batch.schedule.server import utc_now

    refuse_standard_input(spec, "what is run later has to be in a file")
    fields = {
        "name": name,
        "spec": spec,
        "cron": cron,
        "time_zone": time_zone,
        "overrides": tuple(overrides or ()),
        "plugins": tuple(plugins or ()),
        "retry_failed": retry_failed,
        "address": address,
        "directory": os.getcwd(),
        "added_at": utc_now(),
    }
    schedule = Schedule.of(fields, "schedule add")
    schedule.job()
    kept = open_registry(registry)
    kept.add(schedule, replace=replace)
    due = _time_text(_row(schedule, kept.state(schedule))["next"])
    output_console().print(f"{name}: {schedule.cron} {time_zone}, next {due}", soft_wrap=True)


@app.command("list", epilog=examples_of("schedule list"))
def list_(registry: Registry = None, as_json: AsJson = False) -> None:
    """Show every schedule: when it is due next, when it ran last, and what came of that."""
    kept = open_registry(registry)
    rows, wrong = [], []
    for name in kept.names():
        try:
            schedule = kept.schedule(name)
            rows.append(_row(schedule, kept.state(schedule)))
        except SpecError as error:
            wrong.append(str(error))
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        heads = ("name", "cron", "time zone", "next", "last", "outcome")
        cells = [[row["name"], row["cron"], row["time_zone"], *_shown(row), row["spec"]] for row in rows]
        print_table(output_console(), f"Schedules in {kept.uri}", [*map(label, heads), prose("spec")], cells)
    else:
        output_console().print(f"No schedules in {kept.uri}", soft_wrap=True)
    if wrong:
        raise SpecError("\n".join(wrong))


def _row(schedule: Schedule, state: RunState) -> dict[str, Any]:
    """What `list --json` says of one schedule; times are aware."""
    from zoneinfo import ZoneInfo

    from corm_batch.schedule.cron import next_due

    def local(time: datetime | None) -> datetime | None:
        return None if time is None else time.astimezone(ZoneInfo(schedule.time_zone))

    return {
        "name": schedule.name,
        "spec": schedule.spec,
        "cron": schedule.cron,
        "time_zone": schedule.time_zone,
        "next": local(next_due(schedule.cron, schedule.time_zone, state.considered_until)),
        "last": local(state.last_due),
        "outcome": state.outcome,
        "exit_code": state.exit_code,
        "seconds": state.seconds,
    }


def _shown(row: dict[str, Any]) -> tuple[str, str, str]:
    """The cells next, last and outcome of a row."""
    outcome = row["outcome"] or "-"
    if row["seconds"] is not None:
        outcome += f" in {seconds_text(row['seconds'])}"
    return _time_text(row["next"]), _time_text(row["last"]), outcome


def _time_text(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M %Z}"


@app.command(epilog=examples_of("schedule remove"))
def remove(name: ScheduleName, registry: Registry = None) -> None:
    """Forget a schedule; a run that goes on is not ended."""
    open_registry(registry).remove(name)
    output_console().print(f"{name}: removed")


@app.command(epilog=examples_of("schedule serve"))
def serve(registry: Registry = None, address: ClusterAddress = None) -> None:
    """Run what is due, in the foreground, until SIGTERM or Ctrl-C.

    A due time is run once, or skipped while the last run still goes on. What was due while nobody served is caught up
    by one run. Told to stop, it tells the running jobs to, which commit what is finished; a job that was cut short so
    is taken up again by the next serve. Jobs may come and go meanwhile: the registry is read again every 15 seconds.
    A job that has an address runs on that Ray cluster, and with --address so does every other. Such a job is followed
    from here, goes on when this ends, and is found again by the next serve.
    Under systemd use KillMode=mixed, so that a job is told to stop only once: a second signal would end it at once.
    """
    from corm_batch.output.lease import Lease
    from corm_batch.pipeline.signals import StopSignals
    from corm_batch.schedule.server import ScheduleServer, start_job, utc_now

    url = None if address is None else checked_address(address)
    kept = open_registry(registry)
    console = error_console()
    server = ScheduleServer(
        kept,
        lambda line: console.print(f"{utc_now():%Y-%m-%dT%H:%M:%SZ} {line}", soft_wrap=True),
        start=partial(start_job, address=url),
    )
    try:
        with StopSignals() as stop, Lease(kept.uri) as lease:
            server.serve(stop, lease.check)
    except LeaseError as error:
        raise LeaseError(f"another `schedule serve` runs these schedules: {error}") from error


app.command(epilog=examples_of("schedule render"))(render)
