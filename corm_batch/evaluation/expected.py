"""Expected: the right answers that a column has, and what the answers of an output are worth against them.

A document has one right answer, or a list of which any counts; where it is asked several things, a list with an entry
for each, or a struct with one for each column of its answers. Of several answers to one prompt each is compared. Knows
nothing of how it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any, Self, get_args

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from corm_batch.data.formats.json_values import values_of
from corm_batch.data.kinds import spelled
from corm_batch.data.newest_rows import newest_rows
from corm_batch.data.parts import folder, part_schema, read_ahead, read_part
from corm_batch.data.schema import RESULT_NAMES
from corm_batch.data.sources.base import Source
from corm_batch.errors import FileError, SourceError, SpecError
from corm_batch.evaluation.metrics import METRICS, Metric, best
from corm_batch.evaluation.rows import says_something
from corm_batch.spec import JobSpec

MOST_MISSED = 500
_CHARS = 2000  # of an answer that is shown
_READ = "doc_id", "status", "question_number", "output", "error_type", "error_message"
_GRADED: dict[Metric, Metric] = {"exact": "f1", "contains": "f1", "f1": "f1", "rouge_l": "rouge_l"}


@dataclass(frozen=True)
class Case:
    """One answer, and what is right.

    Attributes:
        about: which of its document's answers: a column, or the place of a question or of one of several answers
            (`#0`); empty where there is one.
        right: any of these is.
        said: None where there is no answer.
    """

    about: str
    right: tuple[str, ...]
    said: str | None

    def score(self, metric: Metric) -> float:
        """What the answer is worth, 0..1."""
        return 0.0 if self.said is None else best(METRICS[metric], self.said, self.right)


@dataclass(frozen=True)
class Missed:
    """One answer that is not right: of which document and about what, the right one, what was answered or why nothing
    was, and the score that tells how near it is."""

    doc_id: str
    about: str
    expected: str
    answered: str
    score: float


@dataclass(frozen=True)
class Scores:
    """What the answers of an output are worth.

    Attributes:
        column: where the right ones are.
        metric: by which an answer that is worth less than 1 is missed.
        graded: what tells how near a missed one is: of `exact` and `contains`, which are 0 or 1, the F1.
        cases: answers whose right one is known, failed ones too.
        means: over these, by metric; a failed one is worth 0. Empty where there are none.
        num_missed: how many of them are missed.
        missed: of these the furthest from what is right first, `MOST_MISSED` at most.
        no_row: documents whose right answer is known and that have no row.
    """

    column: str
    metric: Metric
    graded: Metric
    cases: int
    means: Mapping[str, float]
    num_missed: int
    missed: tuple[Missed, ...]
    no_row: int


@dataclass(frozen=True)
class Expected:
    """The right answers by document: texts and other values, lists of them, structs; those that nobody knows, being
    null, are left out."""

    column: str
    answers: Mapping[str, Any]

    @classmethod
    def read(cls, source: Source, column: str) -> Self:
        """What `column` of every document says; of rows with one id the first counts, as in a run.

        Raises:
            SpecError: there is no such column.
        """
        answers = dict[str, Any]()
        try:
            for split in source.splits([column]):
                with suppress(FileError):  # the run itself says so
                    for document in source.read(split, [column]):
                        if document.left_out is None and (answer := document.columns.get(column)) is not None:
                            answers.setdefault(document.doc_id, answer)
        except (SourceError, SpecError) as error:
            raise SpecError(f"--expect {column}: {error}") from error
        return cls(column, answers)

    @classmethod
    def of_output(cls, output_uri: str, column: str) -> Self:
        """What `column` says: one that the rows of an output carry over, or else of the source that its spec names.

        Raises:
            SpecError: there is no such column, or no such source any more.
            SourceError: a part cannot be read.
        """
        newest, found = newest_rows(output_uri), dict[str, Any]()
        carrying = [uri for uri in newest if _carries(part_schema(uri), column)]
        if not carrying:
            try:
                source = JobSpec.load(f"{folder(output_uri, '_job')}/spec.yaml").source
            except SpecError as error:
                raise SpecError(f"--expect {column}: no row here has it, nor is its source known: {error}") from error
            return cls.read(source, column)
        for uri in carrying:
            rows = read_part(uri, ["doc_id", column]).filter(newest[uri])
            known = rows.filter(pc.is_valid(rows[column]))
            found |= dict(zip(known["doc_id"].to_pylist(), values_of(known[column]), strict=True))
        return cls(column, found)

    def check(self, columns: Collection[str], *, several: bool) -> None:
        """Refuse right answers to what has no column among these, and of `several` tasks those that name none.

        Raises:
            SpecError: which is not there.
        """
        if several and (plain := next((one for one in self.answers.values() if not isinstance(one, Mapping)), None)):
            raise SpecError(
                f"--expect {self.column}: several tasks answer, and it does not say which: it has to hold structs of "
                f"their columns, not {_text(plain)[:80]!r}"
            )
        names = dict.fromkeys(name for one in self.answers.values() if isinstance(one, Mapping) for name in one)
        for name in names:
            if name not in columns and not any(column.startswith(f"{name}_") for column in columns):
                known = ", ".join(column for column in columns if column not in RESULT_NAMES or column == "output")
                raise SpecError(
                    f"--expect {self.column}: it says what {name!r} is, and the answers have no such column; "
                    f"they have: {known}"
                )

    def cases(self, row: Mapping[str, Any]) -> list[Case]:
        """The answers of one row of the results whose right one is known."""
        return [case for case in self._cases(row) if case.right]

    def _cases(self, row: Mapping[str, Any]) -> Iterator[Case]:
        right, number = self.answers.get(row["doc_id"]), row.get("question_number")
        said = None if row["status"] == "failed" else row.get("output")
        if number is not None:
            of_it = right if not isinstance(right, list) else right[number] if number < len(right) else None
            yield Case(f"#{number}", _texts(of_it), said)
        elif isinstance(right, Mapping):
            yield from _fields(right, row, "")
        elif isinstance(right, list) and "questions" in row:
            yield from _places(right, row["answers"], "")
        else:
            yield from _drawn(right, row, "answers", "", said)

    def scores(self, output_uri: str, metric: Metric = "exact") -> Scores:
        """What the newest answers of an output are worth.

        Raises:
            SpecError: see `check`.
            SourceError: a part cannot be read.
        """
        newest = newest_rows(output_uri)
        unread = RESULT_NAMES.difference(_READ)
        known = pa.array(self.answers, pa.string())
        sums, missed, graded = dict.fromkeys(METRICS, 0.0), list[Missed](), _GRADED[metric]
        cases = num_missed = 0
        seen = set[str]()
        for uri, part in zip(newest, read_ahead(lambda uri: read_part(uri, without=unread), newest), strict=True):
            answers = without_carried(part)
            spec = yaml.safe_load((part.schema.metadata or {}).get(b"corm_batch.spec", b"{}"))
            self.check(answers.column_names, several="tasks" in spec)
            rows = answers.filter(newest[uri])
            rows = rows.filter(pc.is_in(rows["doc_id"].cast(pa.string()), known))
            columns = {name: values_of(rows[name]) for name in rows.column_names}
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                seen.add(row["doc_id"])
                for case in self.cases(row):
                    found = {name: case.score(name) for name in get_args(Metric)}
                    cases, sums = cases + 1, {name: sums[name] + score for name, score in found.items()}
                    if found[metric] < 1:
                        num_missed += 1
                        missed.append(_missed(row, case, found[graded]))
            missed = nsmallest(MOST_MISSED, missed, key=lambda one: one.score)
        means = {name: total / cases for name, total in sums.items()} if cases else {}
        no_row = len(self.answers) - len(seen)
        return Scores(self.column, metric, graded, cases, means, num_missed, tuple(missed), no_row)


def _missed(row: Mapping[str, Any], case: Case, score: float) -> Missed:
    said = f"{row.get('error_type')}: {row.get('error_message')}" if row["status"] == "failed" else case.said or "-"
    return Missed(row["doc_id"], case.about, " | ".join(case.right)[:_CHARS], said[:_CHARS], score)


def _fields(right: Mapping[str, Any], row: Mapping[str, Any], prefix: str) -> Iterator[Case]:
    """A struct's entries beside the columns of their names; of one of several tasks also `task_column`."""
    for key, one in right.items():
        name = f"{prefix}{key}"
        if isinstance(one, Mapping) and any(column.startswith(f"{name}_") for column in row):
            yield from _fields(one, row, f"{name}_")
        elif isinstance(one, list) and f"{name}_questions" in row:
            yield from _places(one, row[f"{name}_answers"], name)
        elif isinstance(one, list) and isinstance(row.get(name), list):
            yield Case(name, (_text(one),), _text(row[name]))
        else:
            said = row.get(name)
            yield from _drawn(one, row, f"{name}_answers", name, None if said is None else _text(said))


def _drawn(right: Any, row: Mapping[str, Any], column: str, about: str, said: str | None) -> Iterator[Case]:
    """What one prompt was answered; of several answers, of which `said` is a list, each by its place."""
    answers = row.get(column)
    if said is None or f"{column.removesuffix('answers')}questions" in row or not answers or len(answers) == 1:
        yield Case(about, _texts(right), said)
    else:
        yield from (Case(f"{about}#{place}", _texts(right), one) for place, one in enumerate(answers))


def _places(right: list[Any], answers: list[Any] | None, prefix: str) -> Iterator[Case]:
    """Entries of a list beside the answers to the questions at their places."""
    for place, one in enumerate(right):
        said = answers[place] if answers is not None and len(answers) == len(right) else None
        yield Case(f"{prefix}#{place}", _texts(one), said)


def _texts(right: Any) -> tuple[str, ...]:
    """What is right, any of it; nothing where nobody knows."""
    return tuple(_text(one) for one in (right if isinstance(right, list) else [right]) if says_something(one))


def _text(value: Any) -> str:
    """A value as an answer says it: 3, not 3.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return spelled(value) or ""


def without_carried(rows: pa.Table) -> pa.Table:
    """Rows of results without the columns of the source, which are no answers, whatever they are called."""
    return rows.select([name for name in rows.column_names if not _carries(rows.schema, name)])


def _carries(schema: pa.Schema, column: str) -> bool:
    """Whether a part has a column of the source, rather than an answer of its name."""
    place = schema.get_field_index(column)
    return place >= 0 and (schema.field(place).metadata or {}).get(b"detail") == b"carried over"
