"""`corm-batch run`: answer every document of a job, show how it goes and what came of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from corm_batch.cli.answers import WITHOUT_EXPECT, Expect, MissedBy, print_answers, print_missed
from corm_batch.cli.broken_files import print_broken_files
from corm_batch.cli.console import error_console, output_console, print_json
from corm_batch.cli.options import AsJson, Overrides, Plugins, SpecPath, refuse_given
from corm_batch.cli.progress import before_text, progress_json, show_progress
from corm_batch.cli.report import print_failures, print_fields, print_totals
from corm_batch.errors import SourceError
from corm_batch.exit_codes import ExitCode
from corm_batch.report.totals import expected_rows, left_out_text
from corm_batch.report.units import seconds_text

if TYPE_CHECKING:
    from corm_batch.data.selection import Selection
    from corm_batch.evaluation.expected import Expected
    from corm_batch.evaluation.metrics import Metric
    from corm_batch.pipeline.progress import JobSummary
    from corm_batch.spec import JobSpec

_SMALL_JOB = 50


def run(
    context: typer.Context,
    spec: SpecPath,
    overrides: Overrides = None,
    plugins: Plugins = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Answer failed documents again.")] = False,
    expect: Expect = None,
    metric: MissedBy = "exact",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Look at the first N documents of the source alone.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Look at N documents of the source alone, drawn at random.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the draw of --sample: another seed, others. Default: 0.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer every document that is not done yet.

    With --limit or --sample it does so for a few, the same ones every time: of these, what is done is not answered
    again. The next run without them goes on from what is there.

    Exit codes: 0 every document ok, 3 finished with failed documents, of this run or of an earlier one, or with files
    that cannot be read, 4 stopped by verify.stop_above after what was finished is committed, 2 the spec or an argument
    is wrong, 1 the job itself failed, 130 interrupted after what was finished is committed.
    """
    from corm_batch.spec import JobSpec

    selection = _selection(limit, sample, seed)
    if expect is None:
        refuse_given(context, ["metric"], WITHOUT_EXPECT)
    job = JobSpec.load(spec, overrides or ())
    expected = _expected(job, expect) if expect is not None else None
    from corm_batch.pipeline.driver import run_job  # Ray, which a wrong spec need not wait for

    with show_progress(job.name, error_console(), as_json=as_json) as on_event:
        summary = run_job(job, retry_failed=retry_failed, selection=selection, on_event=on_event)
    if as_json:
        scores = expected.scores(summary.output_uri, metric) if expected is not None else None
        print_json({"event": "summary", **progress_json(summary), **({"expected": asdict(scores)} if scores else {})})
    else:
        _print_results(output_console(), summary, expected, metric)
    raise typer.Exit(_exit_code(summary))


def _expected(job: JobSpec, column: str) -> Expected:
    """The right answers, to what the job asks.

    Raises:
        SpecError: the source has no such column, or it is about other columns than those of the answers.
    """
    from corm_batch.evaluation.expected import Expected

    expected = Expected.read(job.source, column)
    names = ["output", *(field.name for field in job.task.result_fields)]
    expected.check(names, several=len(job.task.parts) > 1)
    return expected


def _selection(limit: int | None, sample: int | None, seed: int | None) -> Selection | None:
    """What the options limit a run to.

    Raises:
        typer.BadParameter: they do not go together.
    """
    from corm_batch.data.selection import Selection

    if limit is not None and sample is not None:
        raise typer.BadParameter("--limit and --sample: only one of them may be given")
    if seed is not None and sample is None:
        raise typer.BadParameter("--seed: it is of the draw of --sample, which is not given")
    if sample is not None:
        return Selection(sample, seed or 0)
    return None if limit is None else Selection(limit)


def _exit_code(summary: JobSummary) -> ExitCode:
    if summary.interrupted:
        return ExitCode.INTERRUPTED
    if summary.stopped:
        return ExitCode.STOPPED
    failed = summary.failed or summary.skipped_failed or summary.failed_files
    return ExitCode.FAILED_DOCUMENTS if failed else ExitCode.OK


def _print_results(console: Console, summary: JobSummary, expected: Expected | None, metric: Metric) -> None:
    """Everything the output holds now, whichever run answered it."""
    try:
        _print_output(console, summary.output_uri, expected, metric)
    except SourceError as error:  # the answers of this run are safe all the same
        error_console().print(f"corm-batch: what is there cannot be shown: {error}", soft_wrap=True)
    _print_summary(console, summary)


def _print_output(console: Console, uri: str, expected: Expected | None, metric: Metric) -> None:
    from corm_batch.data.newest_rows import read_results
    from corm_batch.evaluation.expected import without_carried
    from corm_batch.report.fields import field_figures
    from corm_batch.report.job_report import read_report

    if figures := read_report(uri):
        if figures.ok + figures.failed <= _SMALL_JOB:
            rows = without_carried(read_results(uri, memory=True).sort_by("doc_id"))
            print_answers(console, rows.to_pylist(), expected)
        print_fields(console, field_figures(uri))
        print_failures(console, figures)
        scores = expected.scores(uri, metric) if expected is not None else None
        if scores is not None:
            print_missed(console, scores)
        verdict = expected_rows(scores) if scores is not None else []
        print_totals(console, "Totals", replace(figures, failed_files=()), verdict)  # those are named below


def _left(summary: JobSummary) -> str:
    """What a run that ended early has not come to."""
    if not summary.interrupted and not summary.stopped:
        return ""
    number = "how many the source cannot say" if summary.left is None else str(summary.left)
    return f"; left for the next run: {number}"


def _marks(summary: JobSummary) -> str:
    """How many rows of this run are not all that they might be."""
    counts = {
        "cut off": summary.cut_off,
        "read in part": summary.truncated,
        "looping": summary.looping,
        "with failed fields": summary.with_failed_fields,
        "answered by the fallback": summary.fallback,
    }
    said = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
    return f"; {said}" if said else ""


def _print_summary(console: Console, summary: JobSummary) -> None:
    print_broken_files(console, [(file.uri, file.error) for file in summary.failed_files], summary.empty_files)
    ended = "interrupted after" if summary.interrupted else "stopped after" if summary.stopped else "in"
    console.print(
        f"Run {summary.run_id}: {summary.ok} ok, {summary.failed} failed, {before_text(summary)}, "
        f"{ended} {seconds_text(summary.seconds)}{_left(summary)}{_marks(summary)}",
        soft_wrap=True,
    )
    if summary.left_out:
        console.print(f"Left out of the source: {left_out_text(summary.why_left_out)}", soft_wrap=True)
    if summary.gpu_s:
        cost = "" if summary.cost is None else f", cost {summary.cost:,.2f}"
        console.print(f"GPU time: {summary.gpu_s / 3600:,.3g} GPU hours{cost}", soft_wrap=True)
    if summary.selection:
        console.print(f"Limited to {summary.selection}; a run without --limit and --sample goes on.", soft_wrap=True)
    if said := summary.verification:
        console.print(f"Verification: {said}", soft_wrap=True)
    if summary.stopped:
        console.print(f"Stopped: {summary.stopped}", soft_wrap=True)
    for folder, content in (("results", "answers and errors"), ("memory", "what each cost"), ("_job", "spec and runs")):
        console.print(f"  {summary.output_uri.rstrip('/')}/{folder}  {content}", soft_wrap=True)
