import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.errors import AnswerError
from corm_batch.tasks.fields import ABSENT, Fields, check_schema, from_answer, parse_object


def fields(required=(), **properties):
    return Fields(check_schema({"type": "object", "properties": properties, "required": list(required)}))


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, "must have type: object"),
        ({"type": "array"}, "must have type: object"),
        ({"type": "object", "properties": {}}, "must have type: object"),
        ({"type": "object", "properties": {"a": True}}, "each have a schema"),
        ({"type": "object", "properties": {"a": {"type": "int"}}}, r"\$\.properties\.a\.type: 'int'"),
        ({"type": "object", "properties": {"a": {"pattern": "("}}}, "pattern"),
        ({"type": "object", "properties": {"a": {"$ref": "https://host/x"}}}, r"\$ref is not supported"),
        ({"type": "object", "properties": {"a": {"const": object()}}}, "not JSON serializable"),
    ],
)
def test_schemas_that_cannot_work_are_refused(schema, said):
    with pytest.raises(ValueError, match=said):
        check_schema(schema)


def test_keys_that_yaml_reads_as_numbers_are_names():
    assert check_schema({"type": "object", "properties": {1999: INTEGER}})["properties"] == {"1999": INTEGER}


def test_arrow_types_follow_json_types():
    columns = fields(
        i={"type": "integer", "description": "how many"},
        n={"type": ["number", "null"]},
        b={"type": "boolean"},
        s={"type": "string"},
        e={"enum": ["x", "y"]},
        a={"type": "array"},
        o={"type": "object"},
    ).columns
    assert [str(column.type) for column in columns] == ["int64", "double", "bool", *["string"] * 4]
    assert columns[0].metadata == {b"description": b"how many"}
    assert all(column.nullable for column in columns)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure!\n```json\n{"a": {"b": [1]}}\n```\nAnything else?', {"a": {"b": [1]}}),
        ('{curly} talk, then {"a": 1} and {"a": 2}', {"a": 1}),
        ('{"a": NaN}', None),
        ('{"a": 1', None),
        ("[1, 2]", None),
        ("", None),
        ('{"a":' * 100_000, None),
    ],
)
def test_first_object_is_found_whatever_stands_around_it(answer, found):
    assert parse_object(answer) == found


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet='{}[]":,0a\\u ', max_size=60))
def test_parsing_any_answer_never_raises(answer):
    assert parse_object(answer) is None or isinstance(parse_object(answer), dict)


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        ("integer", " About 1,234 people. ", 1234),
        ("integer", "-7", -7),
        ("integer", "none", "none"),
        ("integer", "2.5", 2.5),
        ("integer", "9" * 5000, "9" * 5000),
        ("number", "3.50 EUR", 3.5),
        ("number", "1e3", 1000.0),
        ("boolean", "Yes, it does.", True),
        ("boolean", "**false**", False),
        ("boolean", "perhaps", "perhaps"),
        ("boolean", "?", "?"),
        ("array", '["a", "b"]', ["a", "b"]),
        ("array", "a, b", "a, b"),
        ("object", '{"a": 1}', {"a": 1}),
        ("string", "  as it is ", "as it is"),
        (["null", "integer"], "5", 5),
        (["string", "integer"], "5", "5"),
    ],
)
def test_plain_answers_become_the_fields_type(kind, answer, value):
    found = from_answer(answer, {"type": kind})
    assert found == value
    assert type(found) is type(value)


def test_the_first_allowed_value_is_chosen():
    rule = fields(a={"type": "integer", "minimum": 0}, n={"type": ["string", "null"]})
    assert rule.choose("a", ["x", None, -1, 5, 6]) == 5
    assert rule.choose("a", ["x", -1]) == "x"
    assert rule.choose("a", [None]) is ABSENT
    assert rule.choose("a", []) is ABSENT
    assert rule.choose("n", [None, "stated"]) == "stated"
    assert rule.choose("n", [None]) is None


def test_a_record_becomes_columns():
    rule = fields(i=INTEGER, n={"type": "number"}, s={"type": "string"}, a={"type": "array"}, x=INTEGER)
    cells = rule.checked({"i": 5.0, "n": 2, "s": "caf\u00e9", "a": ["caf\u00e9", 1]})
    assert cells == {"i": 5, "n": 2.0, "s": "caf\u00e9", "a": '["caf\u00e9", 1]', "x": None}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"year": "soon", "month": 13},
            r'field month: 13 breaks maximum: 12; field year: "soon" breaks type: "integer"',
        ),
        ({"month": 1}, r'field the object: .* breaks required: \["year"\]'),
        ({"year": 10**30}, r"field year: 10+ does not fit int64"),
        ({"year": 1, "title": "\ud800"}, r'field title: "\\ud800" does not fit string'),
        ({"year": 1, "size": 10**400}, r"field size: 10+\.\.\. does not fit double"),
        ({"year": 1, "day": "tomorrow"}, r'field day: "tomorrow" breaks format: "date"'),
    ],
)
def test_what_is_not_allowed_names_field_value_and_rule(record, said):
    rule = fields(
        ["year"],
        year=INTEGER,
        month={"type": "integer", "maximum": 12},
        title={"type": "string"},
        size={"type": "number"},
        day={"type": "string", "format": "date"},
    )
    with pytest.raises(AnswerError, match=said):
        rule.checked(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["", "1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys("insbae", JSON)))
def test_any_record_gives_storable_columns_or_an_answer_error(record):
    kinds = {"i": "integer", "n": "number", "s": "string", "b": "boolean", "a": "array"}
    rule = fields(**{name: {"type": kind} for name, kind in kinds.items()}, e={})
    try:
        cells = rule.checked(json.loads(json.dumps(record)))
    except AnswerError:
        return
    pa.Table.from_pylist([cells], schema=pa.schema(rule.columns))
