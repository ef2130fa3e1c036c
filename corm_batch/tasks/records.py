"""Answers in JSON, read field by field, and asked for once more where something is wrong with them.

Knows nothing of windows, or of how several records become one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any

from corm_batch.data.expressions import names_in
from corm_batch.errors import CutOffError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.base import Answer, Asker, Prompt, Task
from corm_batch.tasks.evidence import quote_of, quote_problem
from corm_batch.tasks.field_rules import broken
from corm_batch.tasks.fields import ITEMS, Fields, Reading
from corm_batch.tasks.json_schema import resolved, validator
from corm_batch.tasks.overflow import ask_any
from corm_batch.tasks.schema_grammar import Form

CUT = " (cut off at task.max_new_tokens)"
_LONGEST_PROBLEM = 300


@dataclass(frozen=True)
class Attempt:
    """What was answered to one prompt, and what it says.

    Attributes:
        answers: one, or several where it was asked again.
        record: readings of the fields that are stated; None where there is no record.
        lost: why others may not be there; None where all is.
    """

    answers: tuple[Answer, ...]
    record: Mapping[str, Reading] | None
    lost: str | None = None

    def mended(self, again: Attempt) -> Attempt:
        """With what a later answer says of the fields that this one does not say, or not well."""
        found = dict(self.record or {})
        for name, theirs in (again.record or {}).items():
            ours = found.get(name)
            if ours is None or (ours.problem and not theirs.problem):
                found[name] = theirs
            elif ours.value == theirs.value and theirs.quote is not None:  # which may be one that can be found
                found[name] = ours._replace(quote=theirs.quote)
        record = None if self.record is None and again.record is None else found
        return Attempt(self.answers + again.answers, record, self.lost and again.lost)


@dataclass(frozen=True)
class Reader:
    """How answers about a document are read.

    Attributes:
        fields: asked for.
        rules: expressions over them.
        text: of the document, where quotations stand.
        form: what answers were held to; None for nothing.
        is_whole: whether one answer is about all of the document, so that rules about the record hold for it.
    """

    fields: Fields
    rules: Sequence[str]
    text: str
    form: Form | None
    is_whole: bool

    def read(self, answer: Answer) -> Attempt:
        """What an answer says."""
        try:
            record, lost = self.fields.read_record(answer.text), None
        except CutOffError as error:
            record = self.fields.read_begun(error.begun) or None
            lost = f"{error}{CUT if answer.finish_reason == 'length' else ''}"
        if record is not None:
            record = ruled({name: self._within(name, one) for name, one in record.items()}, self.rules, self.fields)
        return Attempt((answer,), record, lost)

    def problems(self, attempt: Attempt) -> list[str]:
        """What is wrong with an attempt, for whoever answers again."""
        if attempt.record is None:
            return [attempt.lost or "it holds no JSON with a field of the schema"]
        found = [f"{name}: {one.problem}" for name, one in attempt.record.items() if one.problem]
        if self.fields.quotes:
            stated = {name: one for name, one in attempt.record.items() if one.value is not None}
            quoted = {name: quote_problem(one.quote, self.text) for name, one in stated.items()}
            found += [f"{quote_of(name)}: {problem}" for name, problem in quoted.items() if problem]
        if self.is_whole and not found:
            found += self.fields.broken_rules({name: one.value for name, one in attempt.record.items()})
        return [*found, attempt.lost] if attempt.lost else found

    def _within(self, name: str, reading: Reading) -> Reading:
        """A reading of a field; a problem where it is as long as it may only be because the answer has to end."""
        if reading.problem or self._checker is None:
            return reading
        checker = self._checker if self.fields.is_list else self._checker.evolve(schema=self._allowed.get(name, True))
        if checker.is_valid(reading.value):
            return reading
        said, is_number = repr(reading.value)[:100], isinstance(reading.value, int | float)
        long = "has as many digits as it may" if is_number else "is as long as task.max_new_tokens lets it be"
        return reading._replace(value=None, problem=f"{said} {long}: it may have been cut off")

    @cached_property
    def _allowed(self) -> Mapping[str, Any]:
        """What of each property's values is not that long."""
        return resolved(self.form.within, self.form.within).get("properties", {}) if self.form else {}

    @cached_property
    def _checker(self) -> Any:
        return validator(self.form.within) if self.form else None


def ruled(record: Mapping[str, Reading], rules: Sequence[str], fields: Fields) -> dict[str, Reading]:
    """A record whose fields have a problem where they break a rule; of a list, where one of its objects does."""
    found = dict(record)
    for rule in rules:
        if fields.is_list:
            items = record[ITEMS].value or [] if ITEMS in record else []
            said = [broken(rule, item) for item in items if isinstance(item, Mapping)]
            problem, named = next(filter(None, said), ""), {ITEMS}
        else:
            values = {name: record[name].value if name in record else None for name in fields.properties}
            problem, named = broken(rule, values), set(names_in(rule))
        if problem:
            for name in named & found.keys():
                if found[name].problem is None and found[name].value is not None:
                    found[name] = found[name]._replace(value=None, problem=problem)
    return found


async def ask_records(
    task: Task,
    asker: Asker,
    prompts: Sequence[Prompt],
    reader: Reader,
    retries: int,
) -> list[Attempt | DocumentError]:
    """What is answered to each prompt, asked again where something is wrong with it and there is room to say so.

    Raises:
        DocumentError: none of them could be asked.
    """
    grammar = None if reader.form is None else Grammar.of_schema(reader.form.schema)
    given = await ask_any(task, asker, prompts, repeat(grammar))
    attempts = [one if isinstance(one, DocumentError) else reader.read(one) for one in given]
    for _ in range(retries):
        again = dict[int, Prompt]()
        for place, attempt in enumerate(attempts):
            if isinstance(attempt, Attempt) and (problems := reader.problems(attempt)):
                prompt = _again(prompts[place], attempt, problems)
                if asker.fits([prompt], task.max_new_tokens):
                    again[place] = prompt
        if not again:
            break
        try:
            given = await ask_any(task, asker, again.values(), repeat(grammar))
        except DocumentError:  # what was answered stays
            break
        for place, one in zip(again, given, strict=True):
            first = attempts[place]
            if isinstance(one, Answer) and isinstance(first, Attempt):
                attempts[place] = first.mended(reader.read(one))
    return attempts


def _again(prompt: Prompt, attempt: Attempt, problems: Sequence[str]) -> Prompt:
    """The same prompt with what was wrong with its answer."""
    said = "\n".join(f"- {problem[:_LONGEST_PROBLEM]}" for problem in problems)
    instruction = (
        f"{prompt.instruction}\n\nThis was answered before:\n{attempt.answers[-1].text}\n\n"
        f"What is wrong with it:\n{said}\n\n"
        "Reply once more with the whole JSON and nothing else, with that put right."
    )
    return replace(prompt, instruction=instruction)
