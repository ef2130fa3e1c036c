"""The command line: one verb a file, exit codes, and no traceback for what a user can cause.

Exit codes: 0 every document ok, 3 finished with failed documents, 4 stopped by verify.stop_above, 2 the spec, its model
or an argument is wrong, as an output where nothing is committed, 1 the job itself failed, or something cannot be read
or written, 5 no policy loses as little as it may, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from corm_batch.cli import (
    bench,
    calibrate,
    cancel,
    convert,
    evaluation,
    export,
    init,
    logs,
    plan,
    policies,
    report,
    run,
    schedule,
    schema,
    status,
    submit,
)
from corm_batch.cli.console import error_console, output_console
from corm_batch.cli.examples import examples_of
from corm_batch.errors import CormBatchError, ModelError, SpecError
from corm_batch.exit_codes import ExitCode

_WRONG_SPEC = (SpecError, ModelError)  # a model that cannot be loaded is the spec's fault

app = typer.Typer(
    help="Ask a language model about every document of an archive, with CORM-compressed key-value caches.",
    epilog=examples_of(""),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and errors, on a terminal and off it
)
_VERBS: Mapping[str, Callable[..., None]] = {
    **{"init": init.init, "run": run.run, "plan": plan.plan, "report": report.report, "policies": policies.policies},
    **{"export": export.export, "schema": schema.schema},
    **{"bench": bench.bench, "submit": submit.submit, "status": status.status, "logs": logs.logs},
    **{"cancel": cancel.cancel, "eval": evaluation.evaluate, "calibrate": calibrate.calibrate},
    **{"convert": convert.convert},
}
for name, verb in _VERBS.items():
    app.command(name, epilog=examples_of(name))(verb)
app.add_typer(schedule.app, name="schedule")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output_console().print(f"corm-batch {version('corm-batch')}")
        raise typer.Exit


@app.callback()
def _before_a_verb(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before every verb."""


def main() -> None:
    """Run the command line of this process."""
    try:
        app(prog_name="corm-batch")
    except CormBatchError as error:
        error_console().print(f"corm-batch: {error}", soft_wrap=True)
        raise SystemExit(ExitCode.WRONG_SPEC if isinstance(error, _WRONG_SPEC) else ExitCode.FAILED) from None
