"""`corm-batch report`: what the committed parts of an output say, drawn as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from corm_batch.cli.answers import WITHOUT_EXPECT, Expect, MissedBy, print_missed
from corm_batch.cli.console import excerpt, label, number, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, refuse_given
from corm_batch.errors import SpecError
from corm_batch.report.settings import differences
from corm_batch.report.totals import (
    FIELD_HEADS,
    answer_text,
    compared_rows,
    expected_rows,
    field_cells,
    outcome_text,
    shared_rows,
    status_text,
    totals_rows,
)
from corm_batch.report.units import count_text, one_line, percent_text, seconds_text

if TYPE_CHECKING:
    import pyarrow as pa

    from corm_batch.evaluation.expected import Scores
    from corm_batch.evaluation.metrics import Metric
    from corm_batch.output.committed import Committed
    from corm_batch.report.comparison import Comparison
    from corm_batch.report.fields import FieldFigures
    from corm_batch.report.job_report import JobReport
    from corm_batch.report.settings import SettingDifference
    from corm_batch.report.verified_documents import VerifiedDocument

_BAR_WIDTH, _DIFFERING, _MESSAGES, _REASON = 30, 20, 3, 60
_SMALL_JOB, _ANSWERS, _CHARS = 50, 20, 300
_PAGE_ANSWERS, _PAGE_CHARS = 500, 300_000


def report(
    context: typer.Context,
    output: Annotated[str, typer.Argument(help="The output.uri of a job: a folder, local or s3://.")],
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Also write it as one HTML page that needs no network; local or s3://."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="OUTPUT", help="Another job's output.uri: its documents side by side with this one's."),
    ] = None,
    expect: Expect = None,
    metric: MissedBy = "exact",
    as_json: AsJson = False,
) -> None:
    """Show answers, memory, time and failures of a job from what it committed."""
    from corm_batch.report.answers import answers_of
    from corm_batch.report.fields import field_figures
    from corm_batch.report.job_report import build_report
    from corm_batch.report.verified_documents import worth_a_look

    if expect is None:
        refuse_given(context, ["metric"], WITHOUT_EXPECT)
    page = _page_uri(html) if html is not None else None
    committed = _read(output, answers=compare is not None)
    figures, fields = build_report(committed), field_figures(_uri("", output))
    comparison = _compare(committed, compare) if compare is not None else None
    scores = _scores(_uri("", output), expect, metric) if expect is not None else None
    if page is not None:
        _write_page(page, output, committed, figures, fields, compare, comparison, scores)
    if as_json:
        found = {**_as_json(figures, comparison), "fields": [asdict(field) for field in fields]}
        print_json({**found, "expected": asdict(scores)} if scores is not None else found)
        return
    console = output_console()
    _print_answers(console, answers_of(_uri("", output), _first(committed.rows), _CHARS), figures.documents)
    print_fields(console, fields)
    if scores is not None:
        print_missed(console, scores)
    print_totals(console, output, figures, expected_rows(scores) if scores is not None else [])
    _print_differences(console, "Settings that are not the same for all rows", differences(figures.jobs), ("values",))
    _print_layers(console, figures)
    print_failures(console, figures)
    _print_differing(console, worth_a_look(committed.rows, _DIFFERING + 1))
    _print_slowest(console, figures)
    if comparison is not None:
        print_comparison(console, f"Compared with {compare}", comparison)
    if page is not None:
        console.print(f"Wrote {page}", soft_wrap=True)


def _uri(name: str, given: str) -> str:
    """`given` as an absolute path or an s3:// URI; `name` says in a message which argument it was."""
    from corm_batch.data.uri import resolve_uri

    try:
        return resolve_uri(given)
    except SpecError as error:
        raise SpecError(f"{name}{given}: {error}") from error


def _page_uri(html: str) -> str:
    if html.endswith("/") or not html:
        raise SpecError(f"--html {html}: expected a file to write, such as {html}report.html")
    return _uri("--html ", html)


def _read(output: str, *, answers: bool, option: str = "") -> Committed:
    from corm_batch.output.committed import read_committed

    committed = read_committed(_uri(option, output), answers=answers)
    if committed is None:
        raise SpecError(f"{option}{output}: nothing is committed there; expected the output.uri of a job")
    return committed


def _scores(output: str, column: str, metric: Metric) -> Scores:
    from corm_batch.evaluation.expected import Expected

    return Expected.of_output(output, column).scores(output, metric)


def _compare(here: Committed, other: str) -> Comparison:
    from corm_batch.report.comparison import compare
    from corm_batch.report.job_details import MAX_DOCUMENTS

    return compare(here, _read(other, answers=True, option="--compare "), MAX_DOCUMENTS)


def _write_page(
    page: str,
    output: str,
    committed: Committed,
    figures: JobReport,
    fields: Sequence[FieldFigures],
    other: str | None,
    comparison: Comparison | None,
    scores: Scores | None,
) -> None:
    from corm_batch.data.filesystem import write_whole
    from corm_batch.report.answers import answers_of
    from corm_batch.report.job_details import build_details
    from corm_batch.report.listed_documents import evenly
    from corm_batch.report.page.page import render_page

    shown = evenly(committed.rows.sort_by("doc_id"), _PAGE_ANSWERS)
    answers = answers_of(_uri("", output), shown, max(_CHARS, _PAGE_CHARS // max(1, shown.num_rows)))
    content = render_page(output, figures, build_details(committed), fields, answers, other or "", comparison, scores)
    write_whole(page, content.encode("utf-8"))


def _as_json(figures: JobReport, comparison: Comparison | None) -> dict[str, Any]:
    found = {**asdict(figures), "saved_ratio": figures.saved_ratio, "tokens_per_s": figures.tokens_per_s}
    if comparison is not None:
        found["comparison"] = asdict(comparison)
        del found["comparison"]["spread"]  # a choice of the same documents, for the chart
    return found


def print_totals(console: Console, title: str, figures: JobReport, more: Sequence[tuple[str, str]] = ()) -> None:
    """Documents, tokens, bytes and time in all, and `more` rows of name and value."""
    print_table(console, title, [label(""), prose("")], [*totals_rows(figures), *more], heads=False)


def print_fields(console: Console, fields: Sequence[FieldFigures]) -> None:
    """How often each column of the tasks, and each question, has an answer; nothing where there are none."""
    what, *counts, why = FIELD_HEADS
    columns = [prose(what), *map(number, counts)]
    if any(field.failed for field in fields):
        columns.append(excerpt(why))
    rows = [[*cells[:5], one_line(cells[5], _REASON)][: len(columns)] for cells in map(field_cells, fields)]
    if rows:
        print_table(console, "Answers by field", columns, rows)


def _print_differences(console: Console, title: str, found: Sequence[SettingDifference], sides: Sequence[str]) -> None:
    rows = [(one_line(one.path, 60), *(one_line(value, 120) for value in one.values)) for one in found]
    if rows:
        print_table(console, title, [label("setting"), *map(prose, sides)], rows)


def _print_answers(console: Console, rows: Sequence[Mapping[str, Any]], documents: int) -> None:
    title = "Answers" if documents == len(rows) else f"Answers, the first {len(rows)} of {documents:,}"
    cells = [
        (
            one_line(row["doc_id"], 40),
            status_text(row),
            "-" if row["output_tokens"] is None else count_text(row["output_tokens"]),
            one_line(answer_text(row), _CHARS),
        )
        for row in rows
    ]
    print_table(console, title, [excerpt("document"), label("status"), number("tokens"), prose("answer")], cells)


def _first(rows: pa.Table) -> pa.Table:
    """All rows of a small job; of a large one the oldest."""
    return rows.slice(0, _ANSWERS) if rows.num_rows > _SMALL_JOB else rows


def _print_layers(console: Console, figures: JobReport) -> None:
    rows = [
        (str(layer), percent_text(kept), "#" * round(_BAR_WIDTH * min(1.0, kept)))
        for layer, kept in enumerate(figures.kept_per_layer)
    ]
    if rows:
        print_table(console, "Kept per layer", [number("layer"), number("kept"), label("")], rows)


def print_failures(console: Console, figures: JobReport) -> None:
    """Failed documents by error type and message; nothing when there are none."""
    rows = [
        (group.error_type, f"{message.documents:,}", one_line(message.doc_ids[0], 40), one_line(message.text, 120))
        for group in figures.failures
        for message in group.messages[:_MESSAGES]
    ]
    if rows:
        columns = [label("error type"), number("documents"), excerpt("for example"), prose("message")]
        print_table(console, f"Failures, {figures.failed:,} in all", columns, rows)
    shown = sum(message.documents for group in figures.failures for message in group.messages[:_MESSAGES])
    if shown < figures.failed:
        console.print(f"{figures.failed - shown:,} of rarer messages; report --html shows more\n", soft_wrap=True)


def _print_differing(console: Console, documents: Sequence[VerifiedDocument]) -> None:
    """Documents that an uncompressed cache would have answered otherwise, or that could not be verified."""
    rows = [
        (
            one_line(one.doc_id, 60),
            percent_text(one.agreement),
            "-" if one.first_difference is None else str(one.first_difference),
            "-" if one.largest_gap is None else f"{one.largest_gap:.3f}",
            one_line(one.outcome, 120),
        )
        for one in documents[:_DIFFERING]
    ]
    if rows:
        heads = [excerpt("document"), *map(number, ("agreement", "first difference", "largest gap"))]
        heads.append(prose("what became of it"))
        print_table(console, "An uncompressed cache differs, or it could not be verified", heads, rows)
    if len(documents) > _DIFFERING:
        console.print("others are not shown; report --html shows more\n", soft_wrap=True)


def _print_slowest(console: Console, figures: JobReport) -> None:
    rows = [
        (
            one_line(slow.doc_id, 60),
            count_text(slow.prompt_tokens),
            count_text(slow.output_tokens),
            seconds_text(slow.queue_s),
            seconds_text(slow.prefill_s),
            seconds_text(slow.decode_s),
        )
        for slow in figures.slowest
    ]
    names = ["tokens read", "written", "queue", "prefill", "decode"]
    print_table(console, "Slowest documents", [excerpt("document"), *map(number, names)], rows)


def print_comparison(console: Console, title: str, comparison: Comparison) -> None:
    """Two outputs in all, what is set otherwise, and the first documents that they do not answer alike."""
    _print_differences(console, "Settings that differ", comparison.settings, ("here", "there"))
    counts = [(name, f"{count:,}") for name, count in shared_rows(comparison)]
    print_table(console, title, [label(""), number("documents")], counts)
    columns = [label(""), number("here"), number("there")]
    print_table(console, "Figures compared", columns, compared_rows(comparison))
    rows = [
        (one_line(pair.here.doc_id, 40), pair.verdict, *(outcome_text(side, 48) for side in (pair.here, pair.there)))
        for pair in comparison.documents
        if pair.verdict != "same answer"
    ]
    if rows:
        heads = [excerpt("document"), label("verdict"), excerpt("here"), excerpt("there")]
        print_table(console, "Documents that differ", heads, rows[:_DIFFERING])
