import json
from contextlib import suppress
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks.base import Answer, Task
from corm_batch.tasks.extract import Extract
from corm_batch.tasks.several import Several

PROPERTIES = {"year": {"type": "integer"}, "city": {"type": "string"}, "open": {"type": "boolean"}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["year"]}
QUESTIONS = {"year": "Which year?", "city": "Which city?", "open": "Open?"}


def together(**fields):
    """A task that asks once."""
    spec = {"name": "extract", "schema": SCHEMA, "instruction": "{schema}", "retries": 0}
    return Task.from_spec({**spec, **fields})


def each(**fields):
    spec = {"name": "extract", "schema": SCHEMA, "ask": "each", "questions": QUESTIONS}
    return Task.from_spec({**spec, "question_instruction": "{question}", **fields})


def test_together_reads_one_object_out_of_one_answer(fake_asker, answer):
    asker = fake_asker(lambda prompt: 'Here:\n```json\n{"year": 1999, "city": "Ulm", "extra": [1]}\n```')
    result = answer(together(), asker, "text")
    assert result.columns == {"year": 1999, "city": "Ulm", "open": None}
    assert result.output == 'Here:\n```json\n{"year": 1999, "city": "Ulm", "extra": [1]}\n```'
    assert (result.pieces, result.failed_fields) == (1, {})
    assert json.loads(asker.prompts[0].instruction) == SCHEMA


def test_each_asks_every_question_and_converts_the_answer(fake_asker, answer):
    replies = {"Which year?": "1 999.", "Which city?": "Not stated.", "Open?": "Yes."}
    asker = fake_asker(lambda prompt: replies[prompt.instruction])
    result = answer(each(), asker, "text")
    assert result.columns == {"year": 1999, "city": None, "open": True}
    assert json.loads(result.output) == {"year": "1 999.", "city": "Not stated.", "open": "Yes."}
    assert result.pieces == asker.most_in_flight == 3


def test_each_asks_for_a_field_without_a_question_by_name_and_description(fake_asker, answer):
    described = {"built_in": {"type": "integer", "description": "year of the opening"}, "at": {"description": "Where?"}}
    asker = fake_asker(lambda prompt: "1999" if "year" in prompt.instruction else "Not stated.")
    schema = {"type": "object", "properties": {**described, "main_city": {"type": "string"}}}
    assert answer(each(schema=schema, questions={}), asker, "text").columns["built_in"] == 1999
    assert [one.instruction for one in asker.prompts] == [
        "What is the built in, that is: year of the opening?", "Where?", "What is the main city?"
    ]  # fmt: skip
    assert asker.asked_together == [3]


@pytest.mark.parametrize(
    ("spec", "prompts"),
    [
        ({"schema": SCHEMA}, 3),
        ({"schema": {"type": "object", "properties": {**PROPERTIES, "tags": {"type": "array"}}}}, 1),
        ({"schema": {"type": "object", "properties": {**PROPERTIES, "who": {"type": ["object", "null"]}}}}, 1),
        ({"schema": {"type": "object", "properties": {**PROPERTIES, "any": {}}}, "questions": {"any": "Any?"}}, 4),
        ({"schema": {"type": "array", "items": SCHEMA}}, 1),
        ({"schema": {"type": "array", "items": SCHEMA}, "questions": QUESTIONS}, 3),
    ],
)
def test_auto_asks_plain_fields_and_those_with_questions_each(spec, prompts, fake_asker, answer):
    asker = fake_asker(lambda prompt: '{"year": 1999}' if prompts == 1 else "1999")
    with suppress(AnswerError):
        answer(Task.from_spec({"name": "extract", "ask": "auto", "retries": 0, **spec}), asker, "text")
    assert asker.asked_together == [prompts]


def test_each_keeps_the_other_fields_when_one_cannot_be_asked(fake_asker, answer):
    asker = fake_asker(lambda prompt: DocumentError("no room") if prompt.instruction == "Which city?" else "1999")
    task = each(schema={"type": "object", "properties": {"year": PROPERTIES["year"], "city": PROPERTIES["city"]}},
                questions={"year": "Which year?", "city": "Which city?"})  # fmt: skip
    result = answer(task, asker, "text")
    assert (result.columns, result.failed_fields) == ({"year": 1999, "city": None}, {"city": "no room"})
    with pytest.raises(DocumentError, match="no room") as caught:
        answer(task, fake_asker(lambda prompt: DocumentError("no room")), "text")
    assert type(caught.value) is DocumentError


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"year": "soon"}', r'field year: "soon" breaks type: "integer"'),
        ('{"city": "Ulm"}', r'breaks required: \["year"\]'),
        ("I cannot tell.", r"no JSON object with a field of the schema: 'I cannot tell\.'"),
        (json.dumps(SCHEMA), "no JSON object"),
        (
            '{"city": "' + "x" * 300,
            r"no JSON object with a field of the schema \(cut off at task\.max_new_tokens\)",
        ),
    ],
)
def test_together_that_does_not_validate_says_why(reply, said, fake_asker, answer):
    with pytest.raises(AnswerError, match=said) as caught:
        answer(together(), fake_asker(lambda prompt: reply), "text")
    assert caught.value.output == reply[:256]


def test_each_that_does_not_validate_says_why(fake_asker, answer):
    with pytest.raises(AnswerError, match=r'field year: "long ago" is not written in digits') as caught:
        answer(each(), fake_asker(lambda prompt: "long ago"), "text")
    assert json.loads(caught.value.output) == dict.fromkeys(PROPERTIES, "long ago")
    assert caught.value.columns == {"year": None, "city": "long ago", "open": None}


def test_a_bad_optional_field_fails_alone(fake_asker, answer):
    replies = {"Which year?": "1999", "Which city?": "Ulm", "Open?": "On Sundays"}
    result = answer(each(), fake_asker(lambda prompt: replies[prompt.instruction]), "text")
    assert result.columns == {"year": 1999, "city": "Ulm", "open": None}
    assert result.failed_fields == {"open": '"On Sundays" is not plainly yes or no'}
    assert json.loads(result.output)["open"] == "On Sundays"
    reply = '{"year": 1999, "city": 7, "open": true}'
    result = answer(together(), fake_asker(lambda prompt: reply), "text")
    assert result.columns == {"year": 1999, "city": None, "open": True}
    assert (result.output, result.failed_fields) == (reply, {"city": '7 breaks type: "string"'})


def test_fields_that_an_unanswered_window_may_state_failed(fake_asker, answer):
    def reply(prompt):
        if prompt.text[0] == "a":
            return "1999" if prompt.instruction == "Which year?" else "Not stated."
        return AnswerError("no end", finish_reason="length") if prompt.instruction != "Which city?" else "Not stated."

    result = answer(each(max_new_tokens=11), fake_asker(reply, context=72), "a" * 50 + "b" * 30)
    assert result.columns == {"year": 1999, "city": None, "open": None}
    assert (result.failed_fields, result.finish_reason, result.pieces) == ({"open": "no end"}, "length", 6)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "1234"),
        ({"type": "number"}, "12.3"),
        ({"type": "boolean"}, "No"),
        ({"enum": ["Foo", "Foo bar"]}, "Foo"),
        ({"type": "array"}, "[1] or [2"),
        ({"type": "string"}, "Not sta"),
    ],
)
def test_what_was_cut_off_is_no_field(schema, text, fake_asker, answer):
    task = each(schema={"type": "object", "properties": {"a": schema, "b": {"type": "integer"}}}, questions={})
    asker = fake_asker(lambda prompt: Answer(text, "length", -1.0) if " a?" in prompt.instruction else "7")
    result = answer(task, asker, "text")
    assert result.columns == {"a": None, "b": 7}
    assert result.failed_fields == {"a": f"{text!r} was cut off at task.max_new_tokens"}
    assert json.loads(result.output) == {"a": text, "b": "7"}


@pytest.mark.parametrize(
    ("said", "value", "problem"),
    [
        ('{"a": 1, "a": 2}', None, '"1 and 2" breaks type: "integer"'),
        ('{"any": {"x": 1, "x": [2]}}', None, "is not JSON serializable"),
        ('{"any": [1e999]}', '["1e999"]', None),
        ('{"a": 9007199254740993.0}', 9007199254740993, None),
        ('{"number": 9007199254740993.0}', None, "does not fit double"),
    ],
)
def test_json_says_one_thing_or_none(said, value, problem, fake_asker, answer):
    fields = {"a": {"type": "integer"}, "any": {}, "number": {"type": "number"}, "b": {"type": "integer"}}
    task = together(schema={"type": "object", "properties": fields})
    result = answer(task, fake_asker(lambda prompt: f'{said[:-1]}, "b": 7}}'), "text")
    name = next(iter(json.loads(said)))
    assert (result.columns[name], result.columns["b"]) == (value, 7)
    assert (problem or "") in result.failed_fields.get(name, "")


def test_a_whole_number_that_no_float_is_fails(fake_asker, answer):
    task = each(
        schema={"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer"}}}, questions={}
    )
    result = answer(task, fake_asker(lambda prompt: "9007199254740993"), "text")
    assert result.columns == {"a": None, "b": 9007199254740993}
    assert "does not fit double" in result.failed_fields["a"]


def test_together_without_the_end_of_one_window(fake_asker, answer):
    replies = {"a": '{"year": 1999, "open": true}', "b": '{"city": "' + "x" * 200}
    asker = fake_asker(lambda prompt: replies[prompt.text[0]], context=len(json.dumps(SCHEMA)) + 150)
    result = answer(together(max_new_tokens=100), asker, "a" * 50 + "b" * 50)
    assert result.columns == {"year": 1999, "city": None, "open": True}
    assert result.failed_fields == {"city": "the answer ends inside its JSON (cut off at task.max_new_tokens)"}
    assert result.finish_reason == "length"
    with pytest.raises(AnswerError, match=r"holds no JSON object with a field of the schema: no end") as caught:
        answer(together(), fake_asker(lambda prompt: AnswerError("no end")), "text")
    assert caught.value.output is None


LIST = {"type": "array", "items": {"$ref": "#/$defs/Gate"}, "$defs": {"Gate": {"type": "object", "properties": {
    "code": {"type": "integer"}, "kind": {"enum": ["Blue", "Red"]}}}}}  # fmt: skip


def test_a_list_is_what_all_windows_list(fake_asker, answer):
    replies = {"a": ('[{"code": 1}, {"code": 2}]', -2.0), "b": ("Nothing.", -0.1), "c": ('[{"code": 2},]', -0.5)}
    task = together(schema=LIST, max_new_tokens=40)
    asker = fake_asker(lambda prompt: replies[prompt.text[0]], context=len(json.dumps(LIST)) + 90)
    result = answer(task, asker, "a" * 50 + "b" * 50 + "c" * 50)
    assert [gate["code"] for gate in result.columns["items"]] == [1, 2, 2]
    assert (str(task.result_fields[0].type), result.pieces) == ("list<item: struct<code: int64, kind: string>>", 3)
    replies["b"] = AnswerError("no end")
    with pytest.raises(AnswerError, match="field items: no end"):  # what it would have listed is missing
        answer(task, asker, "a" * 50 + "b" * 50)
    default = Task.from_spec({"name": "extract", "schema": LIST, "retries": 0})
    asker = fake_asker(lambda prompt: "[]")
    assert answer(default, asker, "text").columns == {"items": []}
    assert "one JSON array and" in asker.prompts[0].instruction
    with pytest.raises(AnswerError, match=r"holds no JSON array: 'None'"):
        answer(task, fake_asker(lambda prompt: "None"), "text")


def test_each_reads_the_one_object_of_a_list(fake_asker, answer):
    task = each(schema=LIST, questions={"code": "Code?", "kind": "Kind?"})
    replies = {"Code?": "4711", "Kind?": "green"}
    result = answer(task, fake_asker(lambda prompt: replies[prompt.instruction]), "text")
    assert result.columns == {"items": [{"code": 4711, "kind": None}]}
    assert list(result.failed_fields) == ["kind"]
    assert answer(task, fake_asker(lambda prompt: "Not stated."), "text").columns == {"items": []}
    with pytest.raises(AnswerError, match=r"field code: .*field kind: .*no list is stated"):
        answer(task, fake_asker(lambda prompt: "who knows"), "text")
    plain = each(schema={"type": "array", "items": {"type": "integer"}}, questions={"items": "Codes?"})
    assert answer(plain, fake_asker(lambda prompt: "[1, 2]"), "text").columns == {"items": [1, 2]}


class Color(StrEnum):
    BLUE = "blue"
    RED = "red"


class Gate(BaseModel):
    """A gate."""

    code: int | None = None
    color: Color
    size: Annotated[float, Field(gt=0, description="metres", json_schema_extra={"decimal": ","})]
    opened: date | None = None
    grade: Literal[1, 2] = 1
    tags: list[str] = []
    inner: "Gate | None" = None


def test_what_pydantic_writes_works(fake_asker, answer):
    task = together(schema=Gate.model_json_schema())
    types = {field.name: str(field.type) for field in task.result_fields}
    assert types == {"code": "int64", "color": "string", "size": "double", "opened": "string", "grade": "int64",
                     "tags": "string", "inner": "string"}  # fmt: skip
    gate = {"code": None, "color": "blue", "size": 2, "grade": 2, "inner": {"color": "red", "size": 1}}
    result = answer(task, fake_asker(lambda prompt: json.dumps(gate)), "text")
    assert (result.columns["color"], result.columns["grade"], result.columns["code"]) == ("blue", 2, None)
    assert json.loads(result.columns["inner"]) == gate["inner"]
    questions = dict.fromkeys(types, "?") | {"size": "size?", "color": "color?"}
    replies = {"?": "Not stated.", "size?": "1.234", "color?": "Red."}
    result = answer(each(schema=Gate.model_json_schema(), questions=questions),
                    fake_asker(lambda prompt: replies[prompt.instruction]), "text")  # fmt: skip
    assert (result.columns["size"], result.columns["color"]) == (1234.0, "red")
    gates = together(schema=TypeAdapter(list[Gate]).json_schema())
    assert str(gates.result_fields[0].type).startswith("list<item: struct<code: int64, color: string, size: double")


def test_together_takes_each_field_from_the_most_certain_window_that_has_it(fake_asker, answer):
    replies = {
        "a": ('{"year": null, "city": "Bonn"}', -0.1),
        "b": ('{"year": 1999, "city": "Ulm"}', -0.5),
        "c": ('{"year": "maybe", "open": true,}', -0.2),
        "d": ("nothing here", -0.01),
    }
    instruction = "{schema}"
    asker = fake_asker(lambda prompt: replies[prompt.text[0]], context=len(json.dumps(SCHEMA)) + 150)
    text = "a" * 50 + "b" * 50 + "c" * 50 + "d" * 50
    result = answer(together(instruction=instruction, max_new_tokens=100), asker, text)
    assert result.columns == {"year": 1999, "city": "Bonn", "open": True}
    assert result.pieces == 4


def test_each_takes_each_field_from_the_most_certain_window_that_states_it(fake_asker, answer):
    def reply(prompt):
        return {
            ("a", "Which year?"): ("1999", -0.9),
            ("b", "Which year?"): ("unclear", -0.1),
            ("a", "Which city?"): ("Not stated.", -0.01),
            ("b", "Which city?"): ("Ulm", -2.0),
            ("a", "Open?"): ("no", -0.3),
            ("b", "Open?"): ("yes", -0.2),
        }[prompt.text[0], prompt.instruction]

    asker = fake_asker(reply, context=72)
    result = answer(each(max_new_tokens=11), asker, "a" * 50 + "b" * 30)
    assert result.columns == {"year": 1999, "city": "Ulm", "open": True}
    assert result.pieces == 6


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, r"task\.schema: Field required"),
        ({"schema": []}, r"task\.schema: .*dictionary, got \[\]"),
        ({"schema": {"type": "object"}}, r"task\.schema: must have type: object, and properties"),
        (
            {"schema": {**SCHEMA, "required": ["jear"]}},
            r"task\.schema: required names jear; the properties are year, c",
        ),
        ({"schema": {"type": "array", "items": {**SCHEMA, "required": ["jear"]}}}, "required names jear; the prop"),
        (
            {"schema": {"type": "object", "properties": {**PROPERTIES, "x": {"minimum": 3, "maximum": 2}}}},
            "schema: x: no value can satisfy what it says of it",
        ),
        ({"schema": {"type": "object", "properties": {**PROPERTIES, "x": {"enum": []}}}}, "schema: x: no value can"),
        ({"schema": SCHEMA, "ask": "all"}, r"task\.ask: .*'together', 'each' or 'auto', got 'all'"),
        ({"schema": SCHEMA, "ask": "each", "questions": {**QUESTIONS, "age": "?"}}, "questions names age"),
        ({"schema": SCHEMA, "questions": QUESTIONS}, "questions names city, open, year: .*ask: each"),
        ({"schema": SCHEMA, "instruction": "Read!"}, r"task\.instruction: must hold {schema}"),
        ({"schema": SCHEMA, "question_instruction": "Ask!"}, r"task\.question_instruction: must hold {question}"),
        ({"json_schema": SCHEMA}, r"task\.json_schema: unknown key; known here: .*schema"),
    ],
)
def test_wrong_specs_are_refused(fields, said):
    with pytest.raises(SpecError, match=said):
        Task.from_spec({"name": "extract", **fields})


def test_spec_says_schema_as_the_user_does():
    assert each().to_spec()["schema"] == SCHEMA
    assert isinstance(Task.from_spec(each().to_spec()), Extract)


def test_answers_are_held_to_the_schema_unless_the_job_says_otherwise(fake_asker, answer):
    asker = fake_asker(lambda prompt: '{"year": 1999}')
    answer(together(), asker, "text")
    answer(together(constrained=False), asker, "text")
    held, free = asker.grammars
    assert free is None
    assert json.loads(held.text)["properties"]["year"]["type"] == "integer"
    asker = fake_asker(lambda prompt: "1999" if "year" in prompt.instruction else "Not stated.")
    answer(each(), asker, "text")
    assert [None if one is None else json.loads(one.text) for one in asker.grammars] == [
        None, None, ["Yes", "No", "Not stated."]
    ]  # fmt: skip


def test_a_part_of_a_document_need_not_state_what_the_whole_must(fake_asker, answer):
    asker = fake_asker(
        lambda prompt: '{"year": 1999}' if "a" in prompt.text else "{}", context=len(json.dumps(SCHEMA)) + 90
    )
    assert answer(together(max_new_tokens=40), asker, "b" * 50 + "a" * 50).columns["year"] == 1999
    assert [json.loads(one.text)["required"] for one in asker.grammars] == [[], []]


def test_fields_before_the_end_of_a_cut_answer_stay(fake_asker, answer):
    reply = '{"year": 1999, "city": "' + "x" * 300
    result = answer(together(), fake_asker(lambda prompt: reply), "text")
    assert result.columns == {"year": 1999, "city": None, "open": None}
    said = "the answer ends inside its JSON (cut off at task.max_new_tokens)"
    assert (result.failed_fields, result.finish_reason) == ({"city": said, "open": said}, "length")


def test_a_list_as_long_as_it_may_only_be_because_answers_end_is_no_value(fake_asker, answer):
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}, "b": {}}}
    asker = fake_asker(lambda prompt: json.dumps({"a": [1] * length, "b": "x"}))
    length = 9
    assert answer(together(max_new_tokens=400, schema=schema), asker, "text").failed_fields == {}
    length = json.loads(asker.grammars[0].text)["properties"]["a"]["maxItems"]
    result = answer(together(max_new_tokens=400, schema=schema), asker, "text")
    assert result.columns == {"a": None, "b": "x"}
    assert "as long as task.max_new_tokens lets it be" in result.failed_fields["a"]
    free = answer(together(max_new_tokens=400, schema=schema, constrained=False), asker, "text")
    assert json.loads(free.columns["a"]) == [1] * length


def test_a_second_answer_mends_what_was_wrong_with_the_first(fake_asker, answer):
    replies = iter(['{"year": 1999, "city": 7, "open": true}', '{"year": 2000, "city": "Ulm", "open": false}'])
    asker = fake_asker(lambda prompt: next(replies))
    result = answer(together(retries=1), asker, "text")
    assert result.columns == {"year": 1999, "city": "Ulm", "open": True}
    assert (result.pieces, result.failed_fields) == (2, {})
    assert result.output == '{"year": 1999, "city": 7, "open": true}\n\n{"year": 2000, "city": "Ulm", "open": false}'
    assert asker.prompts[1].instruction.startswith(asker.prompts[0].instruction)
    assert '{"year": 1999, "city": 7, "open": true}' in asker.prompts[1].instruction
    assert '- city: 7 breaks type: "string"' in asker.prompts[1].instruction
    assert asker.grammars[0] == asker.grammars[1]


@pytest.mark.parametrize("second", ["I cannot tell.", AnswerError("nothing but its reasoning"), '{"city": 8}'])
def test_a_second_answer_that_is_no_better_loses_nothing(second, fake_asker, answer):
    replies = iter(['{"year": 1999, "city": 7, "open": true}', second])
    result = answer(together(retries=1), fake_asker(lambda prompt: next(replies)), "text")
    assert result.columns == {"year": 1999, "city": None, "open": True}
    assert result.failed_fields == {"city": '7 breaks type: "string"'}


def test_what_is_required_of_the_whole_is_asked_for_again(fake_asker, answer):
    replies = iter(['{"city": "Ulm"}', '{"year": 1999}'])
    asker = fake_asker(lambda prompt: next(replies))
    assert answer(together(retries=1), asker, "text").columns == {"year": 1999, "city": "Ulm", "open": None}
    assert 'breaks required: ["year"]' in asker.prompts[1].instruction


def test_no_second_answer_where_there_is_no_room_to_say_what_was_wrong(fake_asker, answer):
    asker = fake_asker(lambda prompt: '{"year": 1999, "city": 7}', context=len(json.dumps(SCHEMA)) + 4 + 50)
    result = answer(together(retries=1, max_new_tokens=50), asker, "text")
    assert (result.columns["year"], result.pieces, len(asker.prompts)) == (1999, 1, 1)


def test_rules_fail_the_fields_they_name(fake_asker, answer):
    task = together(validate=["year > 2000 or open", "city != 'Ulm'"])
    result = answer(task, fake_asker(lambda prompt: '{"year": 2001, "city": "Ulm"}'), "text")
    assert result.columns == {"year": 2001, "city": None, "open": None}
    assert result.failed_fields == {"city": "city = 'Ulm' breaks validate: city != 'Ulm'"}
    with pytest.raises(
        AnswerError, match=r"field year: open = False, year = 1999 breaks validate: year > 2000 or open"
    ):
        answer(task, fake_asker(lambda prompt: '{"year": 1999, "open": false}'), "text")
    task = Task.from_spec(
        {"name": "extract", "schema": {"type": "array", "items": SCHEMA}, "validate": ["year > 2000"], "retries": 0}
    )
    reply = '[{"year": 2001}, {"year": 1999}]'
    with pytest.raises(AnswerError, match="field items: year = 1999 breaks validate: year > 2000"):
        answer(task, fake_asker(lambda prompt: reply), "text")
    task = each(validate=["year > 2000"], schema={"type": "object", "properties": PROPERTIES})
    replies = {"Which year?": "1999", "Which city?": "Ulm", "Open?": "Yes"}
    result = answer(task, fake_asker(lambda prompt: replies[prompt.instruction]), "text")
    assert result.columns == {"year": None, "city": "Ulm", "open": True}


def test_every_field_comes_with_the_words_it_was_taken_from(fake_asker, answer):
    text = "The bridge at\n  Ulm  was opened in 1999."
    reply = {
        "year_quote": "opened in 1999", "year": 1999, "city_quote": "bridge at Ulm", "city": "Ulm",
        "open_quote": "is open", "open": True,
    }  # fmt: skip
    asker = fake_asker(lambda prompt: json.dumps(reply))
    task = together(evidence=True)
    result = answer(task, asker, text)
    assert result.columns == {
        "year": 1999, "year_quote": "opened in 1999", "year_quote_start": 25, "year_quote_end": 39,
        "year_quote_page": None, "city_quote_page": None, "open_quote_page": None,
        "city": "Ulm", "city_quote": "bridge at\n  Ulm", "city_quote_start": 4, "city_quote_end": 19,
        "open": True, "open_quote": None, "open_quote_start": None, "open_quote_end": None,
    }  # fmt: skip
    assert result.failed_fields == {"open_quote": "'is open' does not stand in the document"}
    assert {field.name for field in task.result_fields} == set(result.columns)
    held = json.loads(asker.grammars[0].text)
    assert list(held["properties"]) == ["year_quote", "year", "city_quote", "city", "open_quote", "open"]
    assert {"year_quote", "city_quote", "open_quote", "year"} == set(held["required"])


def test_a_quotation_that_cannot_be_found_is_asked_for_again(fake_asker, answer):
    replies = iter(['{"year_quote": "of 1999", "year": 1999}', '{"year_quote": "in 1999", "year": 1999}'])
    asker = fake_asker(lambda prompt: next(replies))
    result = answer(together(evidence=True, retries=1), asker, "It was in 1999.")
    assert (result.columns["year_quote"], result.failed_fields) == ("in 1999", {})
    assert "- year_quote: 'of 1999' does not stand in the document" in asker.prompts[1].instruction


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"validate": ["year >"]}, "validate: 'year >' is no expression"),
        ({"validate": ["yaer > 1"]}, "'yaer > 1' names yaer; the fields are year, city, open"),
        ({"validate": ["1 > 0"]}, "names no field"),
        ({"evidence": True, "ask": "each"}, "evidence: needs ask: together"),
        ({"evidence": True, "schema": {"type": "array", "items": SCHEMA}}, "evidence: needs a schema of type object"),
        (
            {"evidence": True, "schema": {"type": "object", "properties": {"a": {}, "a_quote": {}}}},
            "has a property 'a_quote'",
        ),
        (
            {"schema": {"type": "object", "properties": {"a": {"enum": [1], "type": "string"}}, "required": ["a"]}},
            "no answer can satisfy it .constrained: false asks without one",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_when_the_spec_is_read(fields, said):
    with pytest.raises(SpecError, match=said):
        together(**fields)


def test_what_a_job_asks_is_counted_without_second_answers(fake_asker, answer):
    asker = fake_asker(lambda prompt: "no JSON")
    several = Several.from_sections({"a": together(retries=2).to_spec(), "b": {"name": "summarize"}})
    for task, count in ((together(retries=2), 3), (together(retries=2).asking_once(), 1), (several.asking_once(), 2)):
        asker.prompts.clear()
        with suppress(AnswerError):
            answer(task, asker, "text")
        assert len(asker.prompts) == count
