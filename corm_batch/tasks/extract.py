"""Named fields out of every document, checked against a JSON Schema. Knows nothing of tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, islice
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError
from corm_batch.tasks.base import Answer, Asker, Prompt, Task, TaskResult
from corm_batch.tasks.fields import ABSENT, Fields, check_schema, from_answer, parse_object
from corm_batch.tasks.overflow import ask_all, pieces, text_of
from corm_batch.tasks.questions import ANSWER_FROM_DOCUMENT, QuestionInstruction, by_certainty, says_something


def _with_schema(instruction: str) -> str:
    """Refuse an instruction that would not show the schema."""
    if "{schema}" not in instruction:
        raise ValueError("must hold {schema}, where the JSON Schema goes")
    return instruction


class Extract(Task, name="extract"):
    """Fields of a JSON Schema, one column each.

    `ask: together` wants one JSON object of all fields in one answer; `ask: each` asks every field's question by itself
    and turns the answer into the field's type, which small models do far better. Fields the document does not state are
    null. With `overflow: map_reduce` every window of a long document is asked, and each field takes the value of the
    window the model was most certain of among those that state one its schema allows. The output is the object as JSON.
    """

    json_schema: Annotated[dict[str, Any], AfterValidator(check_schema)] = Field(
        alias="schema", description="a JSON Schema of type object; each of its properties becomes a column"
    )
    ask: Literal["together", "each"] = "together"
    questions: dict[str, str] = Field({}, description="field to question, for ask: each")
    instruction: Annotated[str, AfterValidator(_with_schema)] = Field(
        "Read the fields of this JSON Schema out of the document above. Reply with one JSON object and nothing else; "
        "leave out what the document does not state.\n\n{schema}",
        description="for ask: together; {schema} stands for the schema",
    )
    question_instruction: QuestionInstruction = Field(
        ANSWER_FROM_DOCUMENT, description="for ask: each; {question} stands for the field's question"
    )

    @model_validator(mode="after")
    def _questions_for_each(self) -> Self:
        """With ask: each every field has its question and nothing else has; otherwise there are none."""
        names = set(self._fields.properties) if self.ask == "each" else set()
        if missing := sorted(names - set(self.questions)):
            raise ValueError(f"ask: each needs a question for every field; questions lacks {', '.join(missing)}")
        if unknown := sorted(set(self.questions) - names):
            raise ValueError(f"questions names {', '.join(unknown)}: it takes fields of the schema, and ask: each")
        return self

    @property
    def _fields(self) -> Fields:
        """The schema with what follows from it."""
        return Fields(self.json_schema)

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """One column for each field, of its JSON type."""
        return self._fields.columns

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Read the fields out of one document; AnswerError when they do not satisfy the schema."""
        collect = self._each if self.ask == "each" else self._together
        found, answers = await collect(text_of(document), asker)
        fields = self._fields
        chosen = {name: fields.choose(name, found[name]) for name in fields.properties}
        record = {name: value for name, value in chosen.items() if value is not ABSENT}
        columns = fields.checked(record)
        finish_reason = "length" if any(answer.finish_reason == "length" for answer in answers) else "stop"
        return TaskResult(json.dumps(record, ensure_ascii=False), columns, finish_reason, len(answers))

    async def _together(self, text: str, asker: Asker) -> tuple[dict[str, list[Any]], list[Answer]]:
        """Values of every field, the most certain first, from one answer a window; and the answers."""
        instruction = self.instruction.replace("{schema}", json.dumps(self.json_schema, ensure_ascii=False))
        answers = by_certainty(await ask_all(self, asker, self._prompts(text, instruction, asker)))
        records = [record for answer in answers if (record := parse_object(answer.text)) is not None]
        if not records:
            cut = " (cut off at task.max_new_tokens)" if answers[0].finish_reason == "length" else ""
            raise AnswerError(f"the answer holds no JSON object{cut}: {answers[0].text[:200]!r}")
        names = self._fields.properties
        return {name: [record[name] for record in records if name in record] for name in names}, answers

    async def _each(self, text: str, asker: Asker) -> tuple[dict[str, list[Any]], list[Answer]]:
        """Values of every field, the most certain first, from one answer a field and window; and the answers."""
        properties = self._fields.properties
        instructions = {
            name: self.question_instruction.replace("{question}", self.questions[name]) for name in properties
        }
        prompts = {name: self._prompts(text, instruction, asker) for name, instruction in instructions.items()}
        answers = await ask_all(self, asker, chain.from_iterable(prompts.values()))
        values, following = {}, iter(answers)
        for name, schema in properties.items():
            of_this_field = list(islice(following, len(prompts[name])))
            stated = filter(says_something, by_certainty(of_this_field))
            values[name] = [from_answer(answer.text, schema) for answer in stated]
        return values, answers

    def _prompts(self, text: str, instruction: str, asker: Asker) -> list[Prompt]:
        """The instruction, put to every window."""

        def prompt(piece: str) -> Prompt:
            return Prompt(piece, instruction)

        return [prompt(piece) for piece in pieces(self, asker, text, prompt)]
