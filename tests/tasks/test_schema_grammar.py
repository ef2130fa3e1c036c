"""Forms of schemas: whatever a grammar lets anybody write ends, and the schema allows it."""

from __future__ import annotations

import json
import random
from datetime import date
from enum import Enum
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from corm_batch.grammar.grammar import Grammar
from corm_batch.grammar.matcher import Matchers, fill
from corm_batch.tasks.json_schema import check_schema, validator
from corm_batch.tasks.schema_grammar import Form
from tests.grammar.tokenizers_of import byte_level


class Role(Enum):
    author = "author"
    editor = 2


class Person(BaseModel):
    name: str = Field(min_length=2, description="who")
    born: int | None = None
    role: Role = Role.author
    friends: list[Person] = []


class Place(BaseModel):
    kind: Literal["place"]
    code: str = Field(pattern="^[A-Z]{2}[0-9]{1,3}$")


class Firm(BaseModel):
    kind: Literal["firm"]
    worth: Annotated[float, Field(gt=0)]


class Report(BaseModel):
    title: str = Field(max_length=12)
    day: date | None
    people: list[Person] = Field(min_length=1)
    about: Annotated[Place | Firm, Field(discriminator="kind")]
    pair: tuple[bool, str]
    notes: dict[str, int] = {}


FORMATS = ["date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"]
HELD = {
    "pydantic": Report.model_json_schema(),
    "list": {"type": "array", "items": {"type": ["string", "null"]}},
    "all of": {
        "type": "object",
        "properties": {"a": {"allOf": [{"type": ["integer", "string"]}, {"type": "number", "minimum": 3}]}},
        "allOf": [{"properties": {"b": {"enum": ["x", 1]}}, "required": ["b"]}, {"required": ["a"]}],
    },
    "anything": {
        "type": "object",
        "properties": {"a": {}, "b": {"items": True}, "c": {"type": "object"}, "d": {"type": "array"}},
        "required": ["a", "b", "c", "d"],
    },
    "enum": {"type": "object", "properties": {"a": {"type": "integer", "enum": [1, "1", 2.5]}}, "required": ["a"]},
    "endless": {
        "$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "required": ["n"]}},
        "type": "object",
        "properties": {"a": {"type": "integer"}, "n": {"$ref": "#/$defs/N"}},
        "required": ["a"],
    },
    "formats": {
        "type": "object",
        "properties": {name: {"type": "string", "format": name} for name in FORMATS},
        "required": FORMATS,
    },
    "open": {
        "type": "object",
        "properties": {"a": {"patternProperties": {"^x[0-9]$": {"type": "number", "multipleOf": 0.25}}}},
        "required": ["a", "b"],
        "additionalProperties": {"type": "boolean"},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def matchers():
    tokenizer, writes = byte_level()
    return Matchers(lambda: tokenizer, len(tokenizer), {tokenizer.eos_token_id}), writes


def written_at_random(matchers, schema, seed, most=4_000):
    """A whole answer to a grammar by somebody who knows nothing but what is allowed."""
    (made, writes), rng = matchers, random.Random(seed)
    matcher, tokens = made.matcher(Grammar.of_schema(schema)), []
    mask = np.zeros((1, matcher.num_words), np.int32)
    while len(tokens) < most:
        matcher.follow(tokens)
        if matcher.is_whole_at(len(tokens)):
            return b"".join(writes[token] for token in tokens).decode()
        fill([matcher], mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        tokens.append(int(rng.choice([token for token in allowed if writes[token] is not None])))
    raise AssertionError("no end")


@pytest.mark.parametrize("name", HELD)
def test_whatever_is_written_ends_and_is_allowed(name, matchers):
    schema = check_schema(HELD[name])
    form = Form.of(schema, 100)
    for seed in range(6):
        answer = written_at_random(matchers, form.schema, seed)
        assert list(validator(schema).iter_errors(json.loads(answer))) == []


def test_what_need_not_end_is_bounded_by_the_answers_length_and_told_when_it_gets_there():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string", "maxLength": 5}, "c": {"type": "array"}},
    }
    small, large = Form.of(schema, 64), Form.of(schema, 512)
    longest = small.schema["properties"]["a"]["maxLength"]
    assert longest < large.schema["properties"]["a"]["maxLength"]
    assert small.schema["properties"]["b"]["maxLength"] == 5
    most = small.schema["properties"]["c"]["maxItems"]
    within = validator(small.within)
    assert within.is_valid({"a": "x" * (longest - 1), "b": "x" * 5, "c": [1] * (most - 1)})
    assert not within.is_valid({"a": "x" * longest})
    assert not within.is_valid({"c": [1] * most})


def test_a_number_of_as_many_digits_as_a_grammar_writes_may_be_another(matchers):
    """9223372036854775807 would be written without its last digit."""
    properties = {
        "a": {"type": "integer"},
        "b": {"type": "number", "minimum": 0},
        "c": {"type": "integer", "minimum": 5 * 10**17},
    }
    form = Form.of({"type": "object", "properties": properties}, 100)
    within = validator(form.within)
    assert within.is_valid({"a": -(10**17) + 1, "b": 10**15 - 1, "c": 6 * 10**17})
    assert within.is_valid({"b": 0.123456789})
    assert form.never == ()
    assert not within.is_valid({"a": 922337203685477580})
    assert not within.is_valid({"b": 10**15})


def test_a_number_may_have_an_exponent(matchers):
    made, writes = matchers
    form = Form.of({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}, 100)
    ids = {text: token for token, text in enumerate(writes) if text is not None}
    matcher = made.matcher(Grammar.of_schema(form.schema))
    tokens = [ids[bytes([byte])] for byte in b'{"a": 1.6e-19}']
    matcher.follow(tokens)
    assert matcher.is_whole_at(len(tokens))


@pytest.mark.parametrize("least", [{"format": "uuid"}, {"pattern": "^[A-Z]{60}$"}, {"format": "date-time"}])
def test_a_text_may_have_the_least_that_its_form_asks_for_whatever_is_shared_out(least, matchers):
    """A field that nothing could be written for would be left out without a word."""
    properties = {**{name: {"type": "string"} for name in "abcdefgh"}, "x": {"type": "string", **least}}
    schema = {"type": "object", "properties": properties, "required": ["x"]}
    answer = written_at_random(matchers, Form.of(schema, 32).schema, seed=0)
    assert list(validator(schema).iter_errors(json.loads(answer))) == []


LEFT = {
    "not": {"not": {"const": "a"}},
    "if": {"if": {"minLength": 3}, "then": {"maxLength": 2}},
    "pattern": {"pattern": r"\bword\b"},
    "format": {"format": "colour"},
}


@pytest.mark.parametrize("name", LEFT)
def test_what_a_grammar_cannot_hold_is_left_to_validation(name):
    schema = {"type": "object", "properties": {"a": {"type": "string", **LEFT[name]}}}
    held = Form.of(schema, 100).schema["properties"]["a"]
    assert held.keys() == {"type", "maxLength"}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]}, "no answer can satisfy"),
        ({"type": "string", "pattern": "^a{5}$", "maxLength": 3}, "no answer can satisfy"),
    ],
)
def test_a_schema_that_no_answer_can_satisfy_is_refused(schema, named):
    with pytest.raises(ValueError, match=named):
        Form.of(schema, 100)
