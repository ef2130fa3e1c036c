"""render_page: the report's figures as one HTML document. What is written about them is in page.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from corm_batch.report.page import charts
from corm_batch.report.page.frame import Cell, Grid, render
from corm_batch.report.page.svg import stacked_bar
from corm_batch.report.settings import differences
from corm_batch.report.totals import (
    FIELD_HEADS,
    METRIC_NAMES,
    answer_text,
    compared_rows,
    expected_rows,
    field_cells,
    job_rows,
    missed_cells,
    missed_heads,
    outcome_text,
    shared_rows,
    status_text,
    throughput_text,
    totals_rows,
    warning_rows,
)
from corm_batch.report.units import bytes_text, one_line, percent_text, savings_text, seconds_text, whole_text

if TYPE_CHECKING:
    from corm_batch.evaluation.expected import Scores
    from corm_batch.report.comparison import Comparison
    from corm_batch.report.fields import FieldFigures
    from corm_batch.report.job_details import JobDetails
    from corm_batch.report.job_report import JobReport
    from corm_batch.report.settings import SettingDifference

_ID, _ANSWER, _MESSAGE, _URI = 80, 120, 300, 200


def render_page(
    output: str,
    figures: JobReport,
    details: JobDetails,
    fields: Sequence[FieldFigures],
    answers: Sequence[Mapping[str, Any]],
    other: str = "",
    comparison: Comparison | None = None,
    scores: Scores | None = None,
) -> str:
    """The page of what is committed at `output`; with `comparison`, also of what `other` holds of its documents, with
    `scores` of what its answers are worth."""
    return render(
        "page.html",
        output=one_line(output, _URI),
        other=one_line(other, _URI),
        committed=f"{details.committed_at:%Y-%m-%d %H:%M:%S} UTC",
        tiles=_tiles(figures),
        totals=totals_rows(figures),
        figures=figures,
        details=details,
        job=job_rows(figures),
        warnings=warning_rows(figures),
        changed=_differences(differences(figures.jobs), ("values, with their documents",)),
        answers=_answers(answers, figures.documents),
        fields=_fields(fields),
        expected=expected_rows(scores) if scores else [],
        missed=_missed(scores) if scores else None,
        sizes=charts.memory_figures(details.sizes, details.savings),
        documents=_documents(details),
        layers=charts.layers_figure(details.layers) if details.layers else None,
        layer_table=_layers(details),
        lengths=_lengths(details),
        throughput=charts.throughput_figures(details.throughput) if details.throughput.intervals else (),
        differing=_differing(details),
        failures=_failures(figures),
        slowest=_slowest(details),
        comparison=comparison,
        counts=shared_rows(comparison) if comparison else [],
        compared=compared_rows(comparison) if comparison else [],
        settings=_differences(comparison.settings, ("here", "there")) if comparison else None,
        pairs=_pairs(comparison) if comparison else None,
        pairs_figure=_pairs_figure(comparison),
    )


def _tiles(figures: JobReport) -> list[tuple[str, str, str]]:
    """The first things to know, as (name, figure, more)."""
    kept, failed = figures.kept_ratio, f"{figures.failed:,} failed" if figures.failed else "none failed"
    rate, _, more = throughput_text(figures).partition(", ")
    return [
        ("Documents answered", f"{figures.ok:,}", failed),
        (
            "KV bytes saved",
            savings_text(figures.saved_ratio) if figures.kv_bytes_full else "-",
            f"{bytes_text(figures.kv_bytes_full)} → {bytes_text(figures.kv_bytes_peak)}, summed over documents",
        ),
        (
            "Entries kept",
            percent_text(kept.mean) if figures.ok else "-",
            f"p10 {percent_text(kept.p10)}, p90 {percent_text(kept.p90)}" if figures.ok else "no document was answered",
        ),
        ("Throughput", rate, more) if more else ("Throughput", "-", "no run has left a record"),
        *([("Verified", f"{figures.verified:,}", figures.verification)] if figures.audited else []),
    ]


def _answers(answers: Sequence[Mapping[str, Any]], documents: int) -> Grid:
    rows = [
        [
            _name(row["doc_id"]),
            Cell(status_text(row)),
            _count(row["output_tokens"]),
            Cell(whole_text(answer_text(row))),
        ]
        for row in answers
    ]
    columns = (("document", False), ("status", False), ("tokens", True), ("answer", False))
    return Grid(charts.shown_text(len(rows), documents, "evenly spread over them"), columns, rows)


def _missed(scores: Scores) -> Grid:
    several = any(one.about for one in scores.missed)
    rows = [
        [*map(Cell, cells[:-1]), Cell(cells[-1], one.score)]
        for one in scores.missed
        for cells in [missed_cells(one, several=several, width=_MESSAGE)]
    ]
    heads = missed_heads(scores, several=several)
    named = f"Missed by {METRIC_NAMES[scores.metric]}: {scores.num_missed:,} of {scores.cases:,}"
    fewer = f", of which the furthest {len(rows)} are shown" if len(rows) < scores.num_missed else ""
    return Grid(f"{named}{fewer}.", tuple((head, head == heads[-1]) for head in heads), rows)


def _fields(fields: Sequence[FieldFigures]) -> Grid:
    columns = [(head, place not in (0, 5)) for place, head in enumerate(FIELD_HEADS)]
    return Grid("", tuple(columns), [[Cell(cell) for cell in field_cells(field)] for field in fields])


def _differences(found: Sequence[SettingDifference], sides: Sequence[str]) -> Grid:
    rows = [[Cell(one_line(one.path, _ID)), *(Cell(one_line(value, _URI)) for value in one.values)] for one in found]
    return Grid("", (("setting", False), *((side, False) for side in sides)), rows)


def _documents(details: JobDetails) -> Grid:
    columns = ("document", "tokens read", "written", "KV full", "KV peak", "saved", "kept", "prefill", "decode")
    rows = [
        [
            _name(document.doc_id),
            _count(document.prompt_tokens),
            _count(document.output_tokens),
            _bytes(document.kv_bytes_full),
            _bytes(document.kv_bytes_peak),
            Cell(savings_text(document.saved_ratio), document.saved_ratio),
            _percent(document.kept_ratio),
            _seconds(document.prefill_s),
            _seconds(document.decode_s),
        ]
        for document in reversed(details.documents)
    ]
    shown = charts.shown_text(len(rows), details.measured, "evenly spread over their lengths")
    return Grid(f"{shown} Longest first.", _columns(columns), rows)


def _layers(details: JobDetails) -> Grid:
    rows = [
        [Cell(str(number), number), _percent(layer.mean), _percent(layer.p10), _percent(layer.p90)]
        for number, layer in enumerate(details.layers)
    ]
    columns = (("layer", True), ("kept", True), ("p10", True), ("p90", True))
    return Grid("Entries kept, over all documents, and how they spread over the documents.", columns, rows)


def _lengths(details: JobDetails) -> charts.Figure | None:
    if not details.documents:
        return None
    return charts.lengths_figure(details.documents, details.lengths, details.measured)


def _differing(details: JobDetails) -> Grid:
    rows = [
        [
            _name(document.doc_id),
            _percent(document.agreement),
            _count(document.first_difference),
            *map(_nats, (document.largest_gap, document.logprob_full, document.logprob_kept)),
            Cell(one_line(document.outcome, _MESSAGE)),
        ]
        for document in details.differing
    ]
    numbers = ("agreement", "first difference", "largest gap", "full cache", "own cache")
    columns = (("document", False), *((name, True) for name in numbers), ("what became of it", False))
    caption = "Agreement of tokens; the place of the first that differs; nats; mean log-probabilities of its tokens."
    return Grid(caption, columns, rows)


def _failures(figures: JobReport) -> list[tuple[str, int, Grid]]:
    """A table for each error type, with its name and count."""
    columns = (("message", False), ("documents", True), ("for example", False))
    found = []
    for group in figures.failures:
        rows = [
            [
                Cell(one_line(message.text, _MESSAGE)),
                _count(message.documents),
                Cell(", ".join(one_line(doc_id, _ID) for doc_id in message.doc_ids)),
            ]
            for message in group.messages
        ]
        left = group.num_messages - len(rows)
        caption = "Messages that differ only in numbers count as one; the first of them is shown."
        if left:
            caption += f" {left:,} rarer messages are not shown."
        found.append((one_line(group.error_type, _ID), group.documents, Grid(caption, columns, rows)))
    return found


def _slowest(details: JobDetails) -> Grid:
    kinds = ("queue", "prefill", "decode")
    times = [(slow.queue_s, slow.prefill_s, slow.decode_s) for slow in details.slowest]
    longest = max(map(sum, times), default=0.0)
    rows = []
    for slow, parts in zip(details.slowest, times, strict=True):
        row = [_name(slow.doc_id), _count(slow.prompt_tokens), _count(slow.output_tokens), *map(_seconds, parts)]
        bar = stacked_bar(list(zip(kinds, parts, strict=True)), longest)
        rows.append([*row, Cell(seconds_text(sum(parts)), sum(parts), bar)])
    columns = ("document", "tokens read", "written", *kinds, "in all")
    return Grid("By the time that replicas spent on them; waiting for room does not count.", _columns(columns), rows)


def _pairs_figure(comparison: Comparison | None) -> charts.Figure | None:
    if comparison is None or not comparison.spread:
        return None
    return charts.comparison_figure(comparison.spread, comparison.answered)


def _pairs(comparison: Comparison) -> Grid:
    columns = [("document", False), ("verdict", False), ("answer here", False), ("answer there", False)]
    columns += [(f"{name} {side}", True) for name in ("KV peak", "kept", "time") for side in ("here", "there")]
    rows = []
    for pair in comparison.documents:
        sides = (pair.here, pair.there)
        row = [_name(pair.here.doc_id), Cell(pair.verdict)]
        row += [Cell(outcome_text(side, _ANSWER)) for side in sides]
        row += [_bytes(side.kv_bytes_peak) for side in sides]
        row += [_percent(side.kept_ratio) for side in sides]
        row += [_seconds(side.busy_s) for side in sides]
        rows.append(row)
    shown = charts.shown_text(len(rows), comparison.shared, "what differs first")
    return Grid(f"{shown} Long answers are cut.", tuple(columns), rows)


def _columns(names: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """The row's name, then numbers."""
    return tuple((name, place > 0) for place, name in enumerate(names))


def _name(doc_id: str) -> Cell:
    return Cell(one_line(doc_id, _ID))


def _count(count: int | None) -> Cell:
    return Cell("-" if count is None else f"{count:,}", count)


def _bytes(num_bytes: int | None) -> Cell:
    return Cell("-" if num_bytes is None else bytes_text(num_bytes), num_bytes)


def _percent(share: float | None) -> Cell:
    return Cell(percent_text(share), share)


def _nats(nats: float | None) -> Cell:
    return Cell("-" if nats is None else f"{nats:.3f}", nats if nats is not None and isfinite(nats) else None)


def _seconds(seconds: float | None) -> Cell:
    return Cell(seconds_text(seconds), seconds)
