"""`corm-batch calibrate`: which policy loses no more than it may on a job's own documents, with the fewest bytes."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from corm_batch.cli.console import error_console, label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath, output_folder, refuse_standard_input
from corm_batch.cli.policy_option import Policies, read_policies
from corm_batch.exit_codes import ExitCode
from corm_batch.report.units import counted, seconds_text

if TYPE_CHECKING:
    from corm_batch.calibration.contest import Progress
    from corm_batch.calibration.result import Calibration
    from corm_batch.calibration.setup import Asked
    from corm_batch.spec import JobSpec


MaxLossOption = Annotated[
    str,
    typer.Option(
        "--max-loss",
        metavar="LOSS",
        help="What may be lost: by how much the perplexity of the full cache's own answers may rise, as 1%, or how "
        "many nats a token, as '0.01 nats'.",
    ),
]
Minutes = Annotated[float, typer.Option(min=0.1, help="In which it ends, the load of the model included.")]
Documents = Annotated[int, typer.Option(min=6, help="Drawn at most: half of them choose a policy, half confirm it.")]
Only = Annotated[
    bool, typer.Option("--only", help="Try the job's policy and those given, and none that come with the package.")
]
Write = Annotated[
    bool,
    typer.Option("--write", help="Put the policy into SPEC; the section there and every comment stay as comments."),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Where answers, calibration.json, calibration.html and policy.yaml go, local or s3://. Default: "
        "_calibrate below the job's output.uri.",
    ),
]


def calibrate(
    spec: SpecPath,
    max_loss: MaxLossOption = "1%",
    minutes: Minutes = 10.0,
    documents: Documents = 48,
    policy: Policies = None,
    only: Only = False,
    write: Write = False,
    seed: Annotated[str, typer.Option(help="Of the documents that are drawn.")] = "calibrate",
    output: Output = None,
    overrides: Overrides = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Find the policy of the fewest bytes that loses no more than it may on the job's own documents.

    The full cache answers some documents; policies are held to these answers, many on few documents and few on more;
    the last ones are confirmed on documents that had no part in the choice, and what is promised is an upper bound for
    all. Interrupted, it keeps what it measured: the same command goes on.
    Exit codes: 0 a policy meets the limit, 5 none does, 2 the spec or an argument is wrong, 130 interrupted.
    """
    started = time.monotonic()
    from corm_batch.spec import JobSpec

    if write:
        refuse_standard_input(spec, "--write changes a file")
    job = JobSpec.load(spec, overrides or ())
    given = read_policies(job, policy or ())

    from corm_batch.calibration.loss import MaxLoss
    from corm_batch.calibration.setup import Asked
    from corm_batch.pipeline.model import check_model

    asked = Asked(
        limit=MaxLoss.parse(max_loss),
        policies={one.label: (one.policy, one.fields) for one in given},
        registered=not only,
        documents=documents,
        seed=seed,
        minutes=minutes,
        command=shlex.join(["corm-batch", *sys.argv[1:]]),
    )
    folder = output_folder(output, job, "_calibrate")
    for line in check_model(job).about:
        error_console().print(f"corm-batch: {line}", soft_wrap=True)
    try:
        result = _run(job, asked, folder, started)
    except KeyboardInterrupt:
        error_console().print("interrupted; what was measured is kept: the same command goes on", soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _write(result, folder)
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_calibration(output_console(), result)
        for name, content in (("calibration.html", "the fronts"), ("calibration.json", "every figure")):
            output_console().print(f"  {folder}/{name}  {content}", soft_wrap=True)
    if result.chosen is None:
        raise typer.Exit(ExitCode.NOTHING_CHOSEN)
    _hand_out(result, spec, folder, write=write, quiet=as_json)


def _run(job: JobSpec, asked: Asked, folder: str, started: float) -> Calibration:
    from corm_batch.calibration.run import run_calibration
    from corm_batch.calibration.setup import set_up
    from corm_batch.evaluation.answers import AnswerStore

    errors = error_console()

    def tell(progress: Progress) -> None:
        errors.print(_progress_text(progress), soft_wrap=True)

    plan, race = set_up(job, asked, AnswerStore(f"{folder}/answers"))
    return run_calibration(plan, race, started, tell)


def _progress_text(progress: Progress) -> str:
    """`round 1 of 3: 21 policies, 4 documents, 1m20s`."""
    final = progress.stage == progress.stages
    stage = "final" if final else f"round {progress.stage} of {progress.stages - 1}"
    policies = "1 policy" if progress.policies == 1 else f"{progress.policies} policies"
    return f"{stage}: {policies}, {counted(progress.documents, 'document')}, {seconds_text(progress.seconds)}"


def _write(result: Calibration, folder: str) -> None:
    from corm_batch.calibration.page import render_calibration
    from corm_batch.data.filesystem import write_whole

    write_whole(f"{folder}/calibration.json", (result.model_dump_json(indent=1) + "\n").encode())
    write_whole(f"{folder}/calibration.html", render_calibration(result).encode())


def _hand_out(result: Calibration, spec: str, folder: str, *, write: bool, quiet: bool) -> None:
    """The policy section: in a file of its own, on the screen, and in the spec where that was asked for."""
    from corm_batch.calibration.section import section_text, write_section
    from corm_batch.data.filesystem import write_whole

    chosen = result.of(result.chosen)
    assert chosen is not None
    section = section_text(result, chosen)
    write_whole(f"{folder}/policy.yaml", section.encode())
    if not quiet:
        output_console().print(f"  {folder}/policy.yaml  for the spec:", soft_wrap=True)
        output_console().print(f"\n{section}", soft_wrap=True)
    if write:
        write_section(spec, section)
        error_console().print(f"{spec}: has the policy now; the section before it stays as a comment", soft_wrap=True)


def print_calibration(console: Console, result: Calibration) -> None:
    """What came of it, every policy, and how it was measured."""
    from corm_batch.calibration.words import HEADS, about_rows, cells, state_text, statement

    rows = [(one.label, state_text(one), *cells(one)) for one in result.tried]
    columns = [label("policy"), prose("became"), *map(number, HEADS)]
    print_table(console, "Policies", columns, rows)
    print_table(console, "About", [label(""), prose("")], list(about_rows(result)), heads=False)
    console.print(result.note, soft_wrap=True)
    console.print()
    for line in statement(result):
        console.print(line, soft_wrap=True)
