"""Named fields out of every document, checked against a JSON Schema. Knows nothing of tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError, DocumentError
from corm_batch.tasks.base import Answer, Asker, Task, TaskResult
from corm_batch.tasks.evidence import evidence, evidence_columns, quote_of, with_quotes
from corm_batch.tasks.field_rules import check_rule
from corm_batch.tasks.fields import ITEMS, Fields, Reading
from corm_batch.tasks.json_schema import check_columns, resolved
from corm_batch.tasks.overflow import MakePrompt, ask_any, finish_reason_of, parted, pieces, prompts_of, text_of
from corm_batch.tasks.questions import (
    ANSWER_FROM_DOCUMENT,
    QuestionInstruction,
    by_certainty,
    certainty,
    says_something,
)
from corm_batch.tasks.records import CUT, Attempt, Reader, ask_records, ruled
from corm_batch.tasks.schema_grammar import Form, plain_form

_SHOWN = 200
_TOGETHER = (
    "Read the fields of this JSON Schema out of the document above. Reply with one JSON object and nothing else; "
    "leave out what the document does not state.\n\n{schema}"
)


def _with_schema(instruction: str) -> str:
    """Refuse an instruction that would not show the schema."""
    if "{schema}" not in instruction:
        raise ValueError("must hold {schema}, where the JSON Schema goes")
    return instruction


class Extract(Task, name="extract"):
    """Fields of a JSON Schema, one column each.

    `ask: together` wants one JSON object of all fields in one answer; `ask: each` asks every field's question by itself
    over one reading of the document and turns the answer into the field's type, which small models do far better; it
    takes numbers strictly, and with `decimal: "."` or `","` in a field's schema also those that could be read in two
    ways. A field without a question is asked for by its name and description. `ask: auto` asks each where there are
    questions, or every field is a plain value (a text, number, truth or one of several); together where a field is a
    list or an object, or the schema a list, whose parts one answer has to hold together. Fields the document does not
    state are null; so is one whose answer cannot be used, which `failed_fields` names, unless the schema requires it.

    With `overflow: map_reduce` every window of a long document is asked, and each field takes the value of the window
    the model was most certain of among those that state one its schema allows. A schema of type array is one column,
    `items`, of what all windows list; with `ask: each` its questions are those of one object. The output is what was
    answered: with `ask: each` as a JSON object, by field.

    With `ask: together` an answer is held to the schema as it is written (`constrained`), its texts and lists to a
    length that leaves room for the rest where the schema sets none; with `ask: each`, answers to fields of a few named
    values, or of yes and no. What that cannot hold is checked afterwards, `validate` too; an answer in JSON with
    something wrong is asked for again, with what is wrong (`retries`). Fields that were right stay as they were.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "n": "a document has one record; the task prompt gives several answers",
        "logprobs": "fields are made of answers, and hold none of their tokens; the tasks prompt, chat, summarize and "
        "question_answer have this",
    }

    json_schema: Annotated[dict[str, Any], AfterValidator(check_columns)] = Field(
        alias="schema", description="a JSON Schema; each property of an object becomes a column, an array one of lists"
    )
    ask: Literal["together", "each", "auto"] = Field(
        "together", description="all fields in one JSON object, or each by itself; auto: as the schema is better served"
    )
    questions: dict[str, str] = Field({}, description="field to question, for ask: each and auto")
    instruction: Annotated[str, AfterValidator(_with_schema)] = Field(
        _TOGETHER,
        description="for ask: together; {schema} stands for the schema",
    )
    question_instruction: QuestionInstruction = Field(
        ANSWER_FROM_DOCUMENT, description="for ask: each; {question} stands for the field's question"
    )

    constrained: bool = Field(True, description="choose only tokens that go on with an answer the schema allows")
    rules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), alias="validate", description='expressions over the fields, as "amount > 0"; null fields break none'
    )
    retries: int = Field(1, ge=0, le=3, description="ask: together: times to ask again where an answer is not right")
    evidence: bool = Field(
        False,
        description="ask: together: add the words that each field was taken from, and their place and page",
    )

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        """Rules are of fields; the schema has room for quotations, and a grammar can be made of it."""
        fields = self._fields
        if fields.is_list and self.rules and fields.of_item is None:
            raise ValueError("validate: needs a schema of fields, of an object or of a list of objects")
        for rule in self.rules:
            try:
                check_rule(rule, (fields.of_item or fields).properties)
            except ValueError as error:
                raise ValueError(f"validate: {error}") from error
        if self.evidence and self.ask != "together":
            raise ValueError("evidence: needs ask: together, where a quotation stands beside its field")
        asked = self._asked  # with quotations, where there is room for them
        try:
            if self.constrained and not self._asks_each and (never := Form.of(asked, self.max_new_tokens).never):
                raise ValueError(f"{', '.join(never)}: no value can satisfy what it says of it")
        except ValueError as error:
            raise ValueError(f"schema: {error} (constrained: false asks without one)") from error
        return self

    @model_validator(mode="after")
    def _questions_of_fields(self) -> Self:
        """Questions are of fields, and asked each."""
        names = (self._fields.of_item or self._fields).properties if self.ask != "together" else {}
        if unknown := sorted(set(self.questions) - set(names)):
            raise ValueError(
                f"questions names {', '.join(unknown)}: it takes fields of the schema, and ask: each or auto"
            )
        return self

    @property
    def _asks_each(self) -> bool:
        """Whether every field is asked by itself; see the class for the rule of `auto`."""
        return self.ask == "each" or (self.ask == "auto" and (bool(self.questions) or self._fields.are_plain))

    @property
    def _fields(self) -> Fields:
        """The schema with what follows from it."""
        return Fields(self.json_schema, self.evidence)

    @property
    def _asked(self) -> dict[str, Any]:
        """The schema that answers have: with quotations, where evidence is wanted."""
        return with_quotes(self.json_schema) if self.evidence else self.json_schema

    @property
    def asks_several(self) -> bool:
        """Where every field is asked by itself, and there are several."""
        fields = self._fields
        return self._asks_each and len((fields.of_item or fields).properties) > 1

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """One column for each field, of its JSON type, and three for its quotation."""
        fields = self._fields
        return [*fields.columns, *(evidence_columns(fields.properties) if self.evidence else ())]

    def asking_once(self) -> Extract:
        """Without retries."""
        return self.model_copy(update={"retries": 0})

    def prompts(self, document: Document) -> Sequence[MakePrompt]:
        """One for each field where they are asked so, else one."""
        fields = self._fields
        if not self._asks_each:
            return [self._prompt_together(fields)]
        return self._prompts_each(fields.of_item or fields)

    def _prompt_together(self, fields: Fields) -> MakePrompt:
        instruction = self.instruction.replace("{schema}", json.dumps(self._asked, ensure_ascii=False))
        if self.instruction == _TOGETHER and fields.is_list:
            instruction = instruction.replace("one JSON object", "one JSON array", 1)
        return prompts_of([instruction])[0]

    def _prompts_each(self, fields: Fields) -> list[MakePrompt]:
        questions = [self.questions.get(name) or fields.question(name) for name in fields.properties]
        return prompts_of(self.question_instruction.replace("{question}", question) for question in questions)

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Read the fields out of one document.

        Raises:
            AnswerError: a required field or another rule of the schema is not satisfied, or no field is left.
        """
        fields = self._fields
        found = await (self._each if self._asks_each else self._together)(text_of(document), asker, fields)
        chosen = ruled(found.chosen, self.rules, fields)
        columns, failed = fields.checked(chosen, found.output)
        if self.evidence:
            quotes = {name: one.quote for name, one in chosen.items() if one.value is not None}
            quoted, unquoted = evidence(quotes, text_of(document))
            columns = {**dict.fromkeys(field.name for field in self.result_fields), **columns, **quoted}
            failed |= unquoted
        return TaskResult(found.output, columns, found.finish_reason, found.pieces, failed)

    async def _together(self, text: str, asker: Asker, fields: Fields) -> _Found:
        """The fields out of one answer a window; the answers are the output."""
        kind = "array" if fields.is_list else "object"
        prompt = self._prompt_together(fields)
        prompts = list(map(prompt, pieces(self, asker, text, prompt)))
        reader = Reader(fields, self.rules, text, self._form(len(prompts) == 1), is_whole=len(prompts) == 1)
        attempts = await ask_records(self, asker, prompts, reader, self.retries)
        failures = [one for one in attempts if isinstance(one, DocumentError)]
        tries = [one for one in attempts if isinstance(one, Attempt)]
        lost = next((one.lost for one in tries if one.lost), str(failures[0]) if failures else None)
        records = [(one.answers[-1], one.record) for one in tries if one.record is not None]
        answers = [answer for one in tries for answer in one.answers]
        output = "\n\n".join(answer.text for answer in answers)
        if not records:
            cut = CUT if finish_reason_of(answers) == "length" else ""
            reason = f"{output[:200]!r}" if answers else lost
            wanted = kind if fields.is_list else f"{kind} with a field of the schema"
            raise AnswerError(f"the answer holds no JSON {wanted}{cut}: {reason}", output=output if answers else None)
        by_field = {name: [record[name] for _, record in records if name in record] for name in fields.properties}
        chosen: dict[str, Reading | None] = {}
        if fields.is_list:
            chosen[ITEMS] = Reading(None, lost) if lost else fields.joined(by_field[ITEMS])
        else:
            records.sort(key=lambda pair: certainty(pair[0]), reverse=True)
            by_field = {name: [record[name] for _, record in records if name in record] for name in fields.properties}
            chosen |= {name: fields.choose(readings) for name, readings in by_field.items()}
        last: list[Answer | DocumentError] = [*failures, *(one.answers[-1] for one in tries)]
        return replace(_Found.of(chosen, lost, last, output), pieces=len(failures) + len(answers))

    def _form(self, is_whole: bool) -> Form | None:
        """What answers are held to; one about a part of the document need not state what is required of the whole."""
        if not self.constrained:
            return None
        asked = self._asked
        if not is_whole:
            definitions: dict[str, Any] = {key: asked[key] for key in ("$defs", "definitions") if key in asked}
            quotes = [quote_of(name) for name in self._fields.properties] if self.evidence else []
            asked = {**definitions, **resolved(asked, asked), "required": quotes}
        return Form.of(asked, self.max_new_tokens)

    async def _each(self, text: str, asker: Asker, fields: Fields) -> _Found:
        """The fields out of one answer a field and window; the output is an object of what was answered."""
        asked = fields.of_item or fields
        prompts = self._prompts_each(asked)
        texts = pieces(self, asker, text, *prompts)
        grammars = [plain_form(one, asked.schema) if self.constrained else None for one in asked.properties.values()]
        given = await ask_any(
            self, asker, [prompt(piece) for piece in texts for prompt in prompts], chain.from_iterable(repeat(grammars))
        )
        chosen, said = dict[str, Reading](), {}
        for place, name in enumerate(asked.properties):
            answers, failures = parted(given[place :: len(prompts)])
            certain = by_certainty(answers)
            reading = asked.choose([_read(asked, name, one) for one in certain if says_something(one)])
            said[name] = reading.said if reading else certain[0].text if certain else ""
            chosen |= _known({name: reading}, str(failures[0]) if failures else None)
        if fields.of_item:
            chosen = fields.of_one(chosen)
        return _Found.of(chosen, None, given, json.dumps(said, ensure_ascii=False))


@dataclass(frozen=True)
class _Found:
    """What the answers about one document say.

    Attributes:
        chosen: a reading of every field that is stated, or that failed.
        output: the answers.
        finish_reason, pieces: as in `TaskResult`.
    """

    chosen: dict[str, Reading]
    output: str
    finish_reason: str
    pieces: int

    @classmethod
    def of(
        cls, chosen: Mapping[str, Reading | None], lost: str | None, given: list[Answer | DocumentError], output: str
    ) -> _Found:
        """Of what was chosen and `given`; fields that nobody states failed where an answer is `lost`, and so why."""
        written = [one for one in given if isinstance(one, Answer | AnswerError)]
        return cls(_known(chosen, lost), output, finish_reason_of(written), len(given))


def _read(fields: Fields, name: str, answer: Answer) -> Reading:
    """What an answer about one field says; a number that was cut off is another number, and so with any text."""
    if answer.finish_reason == "length":
        return Reading(None, f"{answer.text[:_SHOWN]!r} was cut off at task.max_new_tokens", answer.text)
    return fields.read_field(name, answer.text)


def _known(chosen: Mapping[str, Reading | None], lost: str | None) -> dict[str, Reading]:
    """The readings there are; a field without a value failed when it may stand in an answer that is `lost`."""
    known = {}
    for name, reading in chosen.items():
        if lost is not None and (reading is None or reading == Reading(None)):
            known[name] = Reading(None, lost)
        elif reading is not None:
            known[name] = reading
    return known
