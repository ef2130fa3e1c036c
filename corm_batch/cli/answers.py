"""A small job's answers as a table, beside the right ones where the source has them."""

from __future__ import annotations

import json
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
    """The right answers of a source, by document, of several questions a list; rows with none there are left out."""

    answers: Mapping[str, str | list[Any]]

    @classmethod
    def read(cls, source: Source, column: str) -> Expected:
        """Read `column` of every document.

        Raises:
            SpecError: there is no such column.
        """
        answers = dict[str, str | list[Any]]()
        try:
            for split in source.splits([column]):
                with suppress(FileError):  # the run itself will say so
                    for document in source.read(split, [column]):
                        if (answer := document.columns.get(column)) is not None:
                            answers[document.doc_id] = answer if isinstance(answer, list) else str(answer)
        except (SourceError, SpecError) as error:
            raise SpecError(f"--expect {column}: {error}") from error
        return cls(answers)

    def matches(self, row: Mapping[str, Any]) -> list[bool]:
        """Whether the answers of a row are the right ones, blanks at their ends aside; those nobody knows left out."""
        right, given = self._right(row), [row["output"]]
        if isinstance(self.answers.get(row["doc_id"]), list) and row.get("question_number") is None:
            given = row.get("answers") or []
        pairs = zip(given, right, strict=True) if len(given) == len(right) else ((None, one) for one in right)
        return [said is not None and said.strip() == str(one).strip() for said, one in pairs if one is not None]

    def text(self, row: Mapping[str, Any]) -> str:
        """What is right of a row, as it is shown."""
        right = ["-" if one is None else str(one) for one in self._right(row)]
        return json.dumps(right, ensure_ascii=False) if len(right) > 1 else (right or ["-"])[0]

    def _right(self, row: Mapping[str, Any]) -> list[Any]:
        """The right answers of a row: that of its question, or all of its document."""
        answer, question = self.answers.get(row["doc_id"]), row.get("question_number")
        if not isinstance(answer, list):
            return [answer]
        return answer if question is None else answer[question : question + 1]

    def verdict(self, rows: pa.Table) -> str:
        """How many answers are right, in one line."""
        names = [name for name in ("doc_id", "output", "question_number", "answers") if name in rows.column_names]
        known = [match for row in rows.select(names).to_pylist() for match in self.matches(row)]
        return f"{sum(known)} of {len(known)} equal what is expected"


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
    ok = row["status"] == "ok"
    found = expected.matches(row) if expected is not None and ok else []
    some = f"{sum(found)} of {len(found)} exact" if 0 < sum(found) < len(found) else "differs"
    cells = [
        one_line(row["doc_id"], _MAX_CELL) + ("" if question is None else f" #{question}"),
        "-" if row["prompt_tokens"] is None else count_text(row["prompt_tokens"] + row["output_tokens"]),
        "-" if full is None else bytes_change_text(full, peak),
        percent_text(1 - peak / full if full else None),
        status_text(row) if not found else "exact" if all(found) else some,
        one_line(answer_text(row), _MAX_CELL),
    ]
    if expected is not None:
        cells.append(one_line(expected.text(row), _MAX_CELL))
    return cells
