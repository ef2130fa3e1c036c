import json

import pytest

from corm_batch.errors import AnswerError, SpecError
from corm_batch.tasks.base import Task
from corm_batch.tasks.extract import Extract

PROPERTIES = {"year": {"type": "integer"}, "city": {"type": "string"}, "open": {"type": "boolean"}}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["year"]}
QUESTIONS = {"year": "Which year?", "city": "Which city?", "open": "Open?"}


def together(**fields):
    return Task.from_spec({"name": "extract", "schema": SCHEMA, "instruction": "{schema}", **fields})


def each(**fields):
    spec = {"name": "extract", "schema": SCHEMA, "ask": "each", "questions": QUESTIONS}
    return Task.from_spec({**spec, "question_instruction": "{question}", **fields})


def test_together_reads_one_object_out_of_one_answer(fake_asker, answer):
    asker = fake_asker(lambda prompt: 'Here:\n```json\n{"year": 1999, "city": "Ulm", "extra": [1]}\n```')
    result = answer(together(), asker, "text")
    assert result.columns == {"year": 1999, "city": "Ulm", "open": None}
    assert json.loads(result.output) == {"year": 1999, "city": "Ulm"}
    assert result.pieces == 1
    assert json.loads(asker.prompts[0].instruction) == SCHEMA


def test_each_asks_every_question_and_converts_the_answer(fake_asker, answer):
    replies = {"Which year?": "In 1,999.", "Which city?": "Not stated.", "Open?": "Yes."}
    asker = fake_asker(lambda prompt: replies[prompt.instruction])
    result = answer(each(), asker, "text")
    assert result.columns == {"year": 1999, "city": None, "open": True}
    assert result.pieces == asker.most_in_flight == 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('{"year": "soon"}', r'field year: "soon" breaks type: "integer"'),
        ('{"city": "Ulm"}', r'breaks required: \["year"\]'),
        ("I cannot tell.", r"no JSON object: 'I cannot tell\.'"),
        ('{"year": 1999, "city": "' + "x" * 300, r"no JSON object \(cut off at task\.max_new_tokens\)"),
    ],
)
def test_together_that_does_not_validate_says_why(reply, said, fake_asker, answer):
    with pytest.raises(AnswerError, match=said):
        answer(together(), fake_asker(lambda prompt: reply), "text")


def test_each_that_does_not_validate_says_why(fake_asker, answer):
    with pytest.raises(AnswerError, match=r'field year: "long ago" breaks type: "integer"'):
        answer(each(), fake_asker(lambda prompt: "long ago"), "text")


def test_together_takes_each_field_from_the_most_certain_window_that_has_it(fake_asker, answer):
    replies = {
        "a": ('{"year": null, "city": "Bonn"}', -0.1),
        "b": ('{"year": 1999, "city": "Ulm"}', -0.5),
        "c": ('{"year": "maybe", "open": true}', -0.2),
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
        ({"schema": SCHEMA, "ask": "all"}, r"task\.ask: .*'together' or 'each', got 'all'"),
        ({"schema": SCHEMA, "ask": "each", "questions": {"year": "?"}}, "questions lacks city, open"),
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
