"""A small job's answers as a table, beside the right ones where the source has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from corm_batch.cli.console import bytes_text, count_text, excerpt, label, number, one_line, percent_text, print_table
from corm_batch.errors import SourceError, SpecError

if TYPE_CHECKING:
    import pyarrow as pa

    from corm_batch.data.sources.base import Source

_MAX_CELL = 60


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
        try:
            documents = [document for split in source.splits([column]) for document in source.read(split, [column])]
        except SourceError as error:
            raise SpecError(f"--expect {column}: {error}") from error
        found = ((document.doc_id, document.columns[column]) for document in documents)
        return cls({doc_id: str(answer) for doc_id, answer in found if answer is not None})

    def matches(self, doc_id: str, output: str | None) -> bool | None:
        """Whether the answer is the right one, blanks at its ends aside; None when nobody knows the right one."""
        if doc_id not in self.answers:
            return None
        return output is not None and output.strip() == self.answers[doc_id].strip()

    def verdict(self, rows: pa.Table) -> str:
        """How many answers are right, in one line."""
        pairs = zip(rows["doc_id"].to_pylist(), rows["output"].to_pylist(), strict=True)
        known = [match for match in (self.matches(*pair) for pair in pairs) if match is not None]
        return f"{sum(known)} of {len(known)} answers equal what is expected"


def print_answers(console: Console, rows: Sequence[Mapping[str, Any]], expected: Expected | None) -> None:
    """One line a document: tokens, bytes, status, answer or error."""
    columns = [excerpt("document"), *map(number, ("tokens", "KV full", "peak", "saved")), label("status")]
    columns.append(excerpt("answer"))
    if expected is not None:
        columns += [excerpt("expected"), label("exact")]
    print_table(console, "Documents", columns, [_cells(row, expected) for row in rows])


def _cells(row: Mapping[str, Any], expected: Expected | None) -> list[str]:
    full, peak = row["kv_bytes_full"], row["kv_bytes_peak"]
    answer = row["output"] if row["status"] == "ok" else f"{row['error_type']}: {row['error_message']}"
    cells = [
        one_line(row["doc_id"], _MAX_CELL),
        "-" if row["prompt_tokens"] is None else count_text(row["prompt_tokens"] + row["output_tokens"]),
        "-" if full is None else bytes_text(full),
        "-" if peak is None else bytes_text(peak),
        percent_text(1 - peak / full if full else None),
        row["status"],
        one_line(answer or "", _MAX_CELL),
    ]
    if expected is None:
        return cells
    match = expected.matches(row["doc_id"], row["output"])
    cells.append(one_line(expected.answers.get(row["doc_id"], "-"), _MAX_CELL))
    return [*cells, {True: "yes", False: "no", None: "-"}[match]]
