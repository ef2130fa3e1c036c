"""Fields: how often each column of the tasks, and each question, has an answer in what is committed, and why not.

Parts are read one by one, of their columns the tasks' own. Knows nothing of how a report is drawn.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from corm_batch.data.newest_rows import newest_rows
from corm_batch.data.parts import read_ahead, read_part
from corm_batch.data.schema import RESULT_FIELDS, RESULT_NAMES
from corm_batch.data.uri import resolve_uri
from corm_batch.tasks.numbers import AROUND
from corm_batch.tasks.questions import NO_ANSWER, is_answer

MOST_QUESTIONS = 40  # of one task that are told one by one
_READ = "status", "error_message", "finish_reason", "failed_fields", "question_number"
_UNREAD = RESULT_NAMES.difference(_READ)
_BLANK = "(no question)"
_MOST_REASONS = 1000  # of one field that are told apart
_NOTHING = NO_ANSWER.rstrip(".").lower()


@dataclass(frozen=True)
class FieldFigures:
    """One column, or one question.

    Attributes:
        name: the column; of a question its task's name, if it has one, and what was asked.
        asked: documents that it was asked of.
        answered: those that have a value, which is not "Not stated.", with whatever explains that.
        failed: those whose answer cannot be used, or that failed as a whole.
        reason: the commonest why; empty where none failed.
    """

    name: str
    asked: int
    answered: int
    failed: int
    reason: str

    @property
    def not_stated(self) -> int:
        """Documents that do not say."""
        return self.asked - self.answered - self.failed

    @property
    def fill_rate(self) -> float:
        """Share of the documents with an answer."""
        return self.answered / self.asked if self.asked else 0.0


@dataclass
class _Count:
    asked: int = 0
    answered: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, asked: int, answered: int, failed: int) -> None:
        self.asked, self.answered, self.failed = self.asked + asked, self.answered + answered, self.failed + failed

    def because(self, reasons: Counter[str]) -> None:
        for reason, count in reasons.items():
            if reason in self.reasons or len(self.reasons) < _MOST_REASONS:
                self.reasons[reason] += count


_Counts = dict[tuple[str, str], _Count]  # by column, and question or ""


def field_figures(output_uri: str) -> tuple[FieldFigures, ...]:
    """The columns in their order, and the questions by name; those of a task that has very many as one.

    Raises:
        SourceError: a part cannot be read.
    """
    newest = newest_rows(resolve_uri(output_uri))
    counts: _Counts = {}

    def read(uri: str) -> pa.Table:
        part = read_part(uri, without=_UNREAD)
        for one in RESULT_FIELDS:
            if one.name in _READ and one.name not in part.column_names:  # an earlier version wrote the part
                part = part.append_column(one, pa.nulls(part.num_rows, one.type))
        if part["question_number"].null_count < part.num_rows:
            part = part.append_column("output", read_part(uri, ["output"])["output"])
        return part.filter(newest[uri])

    for part in read_ahead(read, newest):
        _count(part, counts)
    return tuple(_figures(counts))


def _figures(counts: _Counts) -> Iterator[FieldFigures]:
    questions = Counter(column for column, question in counts if question)
    shown: dict[tuple[str, str], _Count] = {}
    for (column, question), one in counts.items():
        key = (column, question)
        if questions[column] > MOST_QUESTIONS:
            key = (column, f"{questions[column]:,} different questions")
        total = shown.setdefault(key, _Count())
        total.add(one.asked, one.answered, one.failed)
        total.because(one.reasons)
    for (column, question), one in shown.items():
        name = f"{column}: {question}" if column and question else question or column
        commonest = max(one.reasons, key=lambda reason: one.reasons[reason], default="")
        yield FieldFigures(name, one.asked, one.answered, one.failed, commonest)


def _count(part: pa.Table, counts: _Counts) -> None:
    """Add what one part says."""
    reasons = _reasons(part)
    own = {field.name: field.metadata or {} for field in part.schema if field.name not in RESULT_NAMES}
    paired = {name: said[b"answers"].decode() for name, said in own.items() if b"answers" in said}
    for name, said in own.items():
        if (answers := paired.get(name)) is not None and answers in part.column_names:
            if pa.types.is_list(part[name].type):
                _count_lists(part, name, answers, reasons, counts)
            else:
                asked = part.filter(pc.is_valid(part[name]))
                task, failed = name.rpartition("_")[0], pc.equal(asked["status"], "failed")
                if task:  # of several: another may have failed
                    told = pc.match_substring_regex(asked["error_message"], _about(re.escape(task)))
                    failed = pc.and_(failed, pc.or_(pc.is_null(asked["finish_reason"]), pc.fill_null(told, True)))
                    asked = _telling_of(re.escape(task), asked)
                _count_questions(task, asked[name], asked[answers], failed, asked, counts)
        elif answers is None and b"detail" not in said and name not in paired.values():
            _count_column(part, name, reasons.get(name, Counter()), counts)


def _about(task: str) -> str:
    """What matches where a message begins to tell of one of several tasks, whose name is escaped."""
    return rf"(?:^|; ){task}: "


def _telling_of(task: str, rows: pa.Table) -> pa.Table:
    """Rows whose messages begin with what one of several tasks says, whose name is escaped."""
    said = pc.replace_substring_regex(rows["error_message"], rf"(?s)^.*?; ({task}: )", r"\1")
    return rows.set_column(rows.schema.get_field_index("error_message"), "error_message", said)


def _reasons(part: pa.Table) -> dict[str, Counter[str]]:
    """Why fields failed, by their names."""
    found: dict[str, Counter[str]] = {}
    for entry in pc.list_flatten(part["failed_fields"]).to_pylist():
        found.setdefault(entry["field"], Counter())[entry["reason"]] += 1
    return found


def _count_column(part: pa.Table, name: str, reasons: Counter[str], counts: _Counts) -> None:
    """A column of values; one of lists is answered where they hold something.

    In a row that failed it did where nothing was answered, or the message names it, or it and its task.
    """
    one, values = counts.setdefault((name, ""), _Count()), part[name]
    answered = pc.greater(pc.list_value_length(values), 0) if pa.types.is_list(values.type) else pc.is_valid(values)
    answered = pc.fill_null(answered, False)
    parts = list(map(re.escape, name.split("_")))
    named = [rf"\b{'_'.join(parts)}\b"]
    for place in range(1, len(parts)):  # one of several tasks tells of the field by its own name
        task = "_".join(parts[:place])
        named.append(rf"(?s){_about(task)}.*\b{'_'.join(parts[place:])}\b")
        part = _telling_of(task, part)
    told = pc.or_(pc.is_null(part["finish_reason"]), pc.match_substring_regex(part["error_message"], "|".join(named)))
    whole = pc.and_(pc.and_(pc.equal(part["status"], "failed"), pc.fill_null(told, False)), pc.invert(answered))
    one.add(part.num_rows, pc.sum(answered).as_py() or 0, (pc.sum(whole).as_py() or 0) + reasons.total())
    one.because(reasons)
    one.because(_values(part["error_message"].filter(whole)))


def _count_lists(
    part: pa.Table, questions: str, answers: str, reasons: dict[str, Counter[str]], counts: _Counts
) -> None:
    """Lists of questions beside lists of answers."""
    asked = part.filter(pc.is_valid(part[questions])).combine_chunks()
    if not asked.num_rows:
        return
    parents = pc.list_parent_indices(asked[questions])
    texts, said = pc.list_flatten(asked[questions]), pc.list_flatten(asked[answers])
    task = questions.rpartition("_")[0]
    rows = asked.select(["error_message"]).take(parents)
    rows = _telling_of(re.escape(task), rows) if task else rows
    _count_questions(task, texts, said, pc.is_null(said), rows, counts)
    for row in asked.filter(pc.is_valid(asked["failed_fields"])).select([questions, "failed_fields"]).to_pylist():
        for entry in row["failed_fields"]:
            place = entry["field"].removeprefix(f"{answers}[").removesuffix("]")
            if place.isdecimal() and (number := int(place)) < len(row[questions]):
                counts[task, row[questions][number] or _BLANK].because(Counter([entry["reason"]]))


def _count_questions(
    task: str,
    questions: pa.ChunkedArray,
    answers: pa.ChunkedArray,
    failed: pa.ChunkedArray,
    rows: pa.Table,
    counts: _Counts,
) -> None:
    """Questions, each with its answer, whether that failed, and the row that tells why."""
    words = pc.utf8_lower(pc.utf8_trim(answers, f".{AROUND}"))
    short = pc.fill_null(pc.or_(pc.starts_with(words, _NOTHING), pc.equal(words, "")), False)
    nothing = [text for text in pc.unique(answers.filter(short)).to_pylist() if not is_answer(text)]
    answered = pc.and_(pc.invert(pc.is_in(answers, pa.array([*nothing, None], answers.type))), pc.invert(failed))
    names = "question", "answered", "failed", "reason"
    found = pa.table([pc.fill_null(questions, _BLANK), answered, failed, rows["error_message"]], names=list(names))
    sums = [("answered", "count"), ("answered", "sum"), ("failed", "sum")]
    for row in found.group_by("question").aggregate(sums).to_pylist():
        one = counts.setdefault((task, row["question"]), _Count())
        one.add(*(row[f"{name}_{kind}"] for name, kind in sums))
    why = found.filter(pc.and_(found["failed"], pc.is_valid(found["reason"])))
    for row in why.group_by(["question", "reason"]).aggregate([("failed", "count")]).to_pylist():
        counts[task, row["question"]].because(Counter({row["reason"]: row["failed_count"]}))


def _values(column: pa.ChunkedArray) -> Counter[str]:
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(column.drop_null()).to_pylist()})
