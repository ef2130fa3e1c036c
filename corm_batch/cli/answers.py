"""A small job's answers as a table, beside the right ones where the source has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from corm_batch.cli.console import excerpt, label, number, print_table
from corm_batch.errors import FileError, SourceError, SpecError
from corm_batch.report.totals import answer_text, status_text
from corm_batch.report.units import bytes_change_text, count_text, one_line, percent_text

if TYPE_CHECKING:
    import pyarrow as pa

    from corm_batch.data.sources.base import Source

_MAX_CELL = 48


@dataclass(frozen=True)
class Expected:
    """The right answers of a source, by document; rows with none there are left out."""

    answers: Mapping[str, str]

    @classmethod
    def read(cls, source: Source, column: str) -> Expected:
        """Read `column` of every document.

        Raises:
            SpecError: there is no such column.
        """
        answers = {}
        try:
            for split in source.splits([column]):
                with suppress(FileError):  # the run itself will say so
                    for document in source.read(split, [column]):
                        if (answer := document.columns.get(column)) is not None:
                            answers[document.doc_id] = str(answer)
        except (SourceError, SpecError) as error:
            raise SpecError(f"--expect {column}: {error}") from error
        return cls(answers)

    def matches(self, doc_id: str, output: str | None) -> bool | None:
        """Whether the answer is the right one, blanks at its ends aside; None when nobody knows the right one."""
        if doc_id not in self.answers:
            return None
        return output is not None and output.strip() == self.answers[doc_id].strip()

    def verdict(self, rows: pa.Table) -> str:
        """How many answers are right, in one line."""
        pairs = zip(rows["doc_id"].to_pylist(), rows["output"].to_pylist(), strict=True)
        known = [match for match in (self.matches(*pair) for pair in pairs) if match is not None]
        return f"{sum(known)} of {len(known)} equal what is expected"


def print_answers(console: Console, rows: Sequence[Mapping[str, Any]], expected: Expected | None) -> None:
    """One line a document: tokens, bytes, status, answer or error, and the right answer.

    The status of an answer is `exact` or `differs` where the right one is known, else that of `status_text`.
    """
    columns = [excerpt("document"), *map(number, ("tokens", "KV full -> peak", "saved")), label("status")]
    columns += [excerpt("answer")] if expected is None else [excerpt("answer"), excerpt("expected")]
    print_table(console, "Documents", columns, [_cells(row, expected) for row in rows])


def _cells(row: Mapping[str, Any], expected: Expected | None) -> list[str]:
    question = row.get("question_number")
    full, peak = row["kv_bytes_full"], row["kv_bytes_peak"]
    ok = row["status"] == "ok"
    match = expected.matches(row["doc_id"], row["output"]) if expected is not None and ok else None
    cells = [
        one_line(row["doc_id"], _MAX_CELL) + ("" if question is None else f" #{question}"),
        "-" if row["prompt_tokens"] is None else count_text(row["prompt_tokens"] + row["output_tokens"]),
        "-" if full is None else bytes_change_text(full, peak),
        percent_text(1 - peak / full if full else None),
        status_text(row) if match is None else "exact" if match else "differs",
        one_line(answer_text(row), _MAX_CELL),
    ]
    if expected is not None:
        cells.append(one_line(expected.answers.get(row["doc_id"], "-"), _MAX_CELL))
    return cells
