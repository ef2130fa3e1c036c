"""A small job's answers as a table, beside the right ones where a column has them, and what was missed of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from corm_batch.cli.console import excerpt, label, number, print_table
from corm_batch.report.totals import METRIC_NAMES, answer_text, missed_cells, missed_heads, status_text
from corm_batch.report.units import bytes_change_text, count_text, one_line, savings_text

if TYPE_CHECKING:
    from corm_batch.evaluation.expected import Case, Expected, Scores

Expect = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Compare with the right answers, which this column of the source has."),
]
MissedBy = Annotated[
    Literal["exact", "contains", "f1", "rouge_l"],
    typer.Option("--metric", help="With --expect: what an answer worth less than 1 by is listed as missed."),
]
WITHOUT_EXPECT = "it is of the answers that --expect compares, which is not given"

_MAX_CELL = 48
_MISSED = 20


def print_answers(console: Console, rows: Sequence[Mapping[str, Any]], expected: Expected | None) -> None:
    """One line a document: tokens, bytes, status, answer or error, and the right answer.

    The status of an answer is `exact` or `differs` where the right one is known, else that of `status_text`; of several
    some may be exact.
    """
    columns = [excerpt("document"), *map(number, ("tokens", "KV full -> peak", "saved")), label("status")]
    columns += [excerpt("answer")] if expected is None else [excerpt("answer"), excerpt("expected")]
    print_table(console, "Documents", columns, [_cells(row, expected) for row in rows])


def _cells(row: Mapping[str, Any], expected: Expected | None) -> list[str]:
    question = row.get("question_number")
    full, peak = row["kv_bytes_full"], row["kv_bytes_peak"]
    cases = expected.cases(row) if expected is not None else []
    found = [bool(case.score("exact")) for case in cases] if row["status"] == "ok" else []
    some = f"{sum(found)} of {len(found)} exact" if 0 < sum(found) < len(found) else "differs"
    cells = [
        one_line(row["doc_id"], _MAX_CELL) + ("" if question is None else f" #{question}"),
        "-" if row["prompt_tokens"] is None else count_text(row["prompt_tokens"] + row["output_tokens"]),
        "-" if full is None else bytes_change_text(full, peak),
        savings_text(1 - peak / full if full else None),
        status_text(row) if not found else "exact" if all(found) else some,
        one_line(answer_text(row), _MAX_CELL),
    ]
    if expected is not None:
        cells.append(one_line(_right_text(cases), _MAX_CELL))
    return cells


def _right_text(cases: Sequence[Case]) -> str:
    """What is right of a row; of several answers each, by its name or place."""
    if len(cases) == 1:
        return " | ".join(cases[0].right)
    return "; ".join(f"{case.about}: {' | '.join(case.right)}" for case in cases) or "-"


def print_missed(console: Console, scores: Scores) -> None:
    """The answers that are not right, the furthest from it first; nothing where all are."""
    several = any(one.about for one in scores.missed)
    rows = [missed_cells(one, several=several, width=_MAX_CELL) for one in scores.missed[:_MISSED]]
    if not rows:
        return
    *names, score = missed_heads(scores, several=several)
    title = f"Missed by {METRIC_NAMES[scores.metric]}: {scores.num_missed:,} of {scores.cases:,}"
    print_table(console, title, [*map(excerpt, names), number(score)], rows)
    if scores.num_missed > len(rows):
        left = scores.num_missed - len(rows)
        console.print(f"{left:,} others are not shown; the page of report --html has more\n", soft_wrap=True)
