import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.errors import AnswerError, CutOffError
from corm_batch.tasks.evidence import with_quotes
from corm_batch.tasks.fields import Fields, Reading
from corm_batch.tasks.json_schema import check_schema

INTEGER = {"type": "integer"}
OPTIONAL = {"anyOf": [INTEGER, {"type": "null"}], "default": None, "title": "Code"}


def fields(required=(), **properties):
    return Fields(check_schema({"type": "object", "properties": properties, "required": list(required)}))


def read(schema, answer):
    return fields(f=schema).read_field("f", answer)


def test_arrow_types_follow_json_types():
    columns = fields(
        i={"type": "integer", "description": "how many"},
        p=OPTIONAL,
        c={"enum": [4711, 8250]},
        n={"type": ["number", "null"]},
        b={"type": "boolean"},
        s={"type": "string"},
        e={"enum": ["x", "y"]},
        a={"type": "array"},
        o={"type": "object"},
        m={"type": ["string", "integer"]},
    ).columns
    assert [str(column.type) for column in columns] == [*["int64"] * 3, "double", "bool", *["string"] * 5]
    assert columns[0].metadata == {b"description": b"how many"}
    assert all(column.nullable for column in columns)


def test_an_array_at_the_root_is_a_column_of_lists():
    item = {"type": "object", "properties": {"code": OPTIONAL, "tags": {"type": "array"}}}
    for schema in ({"items": item}, {"items": {"$ref": "#/$defs/Item"}, "$defs": {"Item": item}}):
        (column,) = Fields(check_schema({"type": "array", **schema})).columns
        assert column.name == "items"
        assert str(column.type) == "list<item: struct<code: int64, tags: string>>"
    (column,) = Fields(check_schema({"type": "array", "items": INTEGER})).columns
    assert str(column.type) == "list<item: int64>"
    (column,) = Fields(check_schema({"type": "array"})).columns
    assert str(column.type) == "list<item: string>"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": 1} or rather {"a": 2}', {"a": 2}),
        ('{"a": 2} or rather {"a": "two"}', {"a": 2}),
        ('{} then {"a": 1} then {}', {"a": 1}),
        ('{"b": 1} {"a": 1} {"b": 2}', {"a": 1}),
        ('[{"a": 1}]', {"a": 1}),
        ('[{"a": 1}, {"a": 2}]', None),
        ("{}", {}),
        ('{"b": 1}', None),
        ('{"a": null}', {}),
        ("[1, 2]", None),
        ("no JSON", None),
    ],
)
def test_the_last_object_that_the_schema_allows_is_the_record(answer, found):
    record = fields(a=INTEGER).read_record(answer)
    assert (None if record is None else {name: one.value for name, one in record.items()}) == found


def test_an_echo_of_the_schema_is_no_record():
    rule = fields(title={"type": "string"}, type={"type": "string"})
    echo = json.dumps(rule.schema, indent=2)
    assert rule.read_record(f'Schema: {echo} Answer: {{"title": "Final"}}') == {"title": Reading("Final")}
    assert rule.read_record(f'{{"title": "Final"}} by {echo}') == {"title": Reading("Final")}
    assert rule.read_record(echo) is None
    assert rule.read_record(json.dumps(with_quotes(rule.schema))) is None
    assert rule.read_record(json.dumps({**rule.schema, "title": "Paper"})) is None


@pytest.mark.parametrize("answer", ['{"result": {"a": 1}}', '{"A": 1}'])
def test_an_object_of_other_fields_does_not_say_that_these_are_missing(answer):
    assert fields(a=INTEGER).read_record(answer) is None
    assert fields(a=INTEGER).read_record("{}") == {}


def test_rules_about_the_whole_object_count_when_one_is_chosen():
    rule = Fields(check_schema({"type": "object", "properties": {"a": INTEGER, "b": INTEGER}, "required": ["a", "b"]}))
    assert rule.read_record('{"a": 1, "b": 2} {"a": 3}') == {"a": Reading(1), "b": Reading(2)}


def test_a_record_without_an_end_is_no_record():
    with pytest.raises(CutOffError):
        fields(a=INTEGER).read_record('{"a": 1} {"a": 1')


@pytest.mark.parametrize(
    ("schema", "answer", "value"),
    [
        (INTEGER, "4711", 4711),
        (INTEGER, "-7", -7),
        (INTEGER, "3.0", 3),
        (OPTIONAL, "4711 euros", 4711),
        ({"type": "number"}, "3.50 EUR", 3.5),
        ({"type": "number"}, "1 250 000 euros", 1_250_000.0),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "number", "decimal": ","}, "1.234", 1234.0),
        ({"type": "number", "decimal": "."}, "1.234", 1.234),
        ({"anyOf": [{"type": "number", "decimal": ","}, {"type": "null"}]}, "1.234", 1234.0),
        ({"type": "boolean"}, "Yes.", True),
        ({"type": "boolean"}, "**false**", False),
        ({"type": "array"}, 'Here: ["a", "b"]', ["a", "b"]),
        ({"type": "object"}, '{"a": 1,}', {"a": 1}),
        ({"type": "string"}, "  as it is. ", "as it is."),
        ({"enum": ["Blue", "Red"]}, "blue.", "Blue"),
        ({"enum": ["a", "A"]}, "A", "A"),
        ({"enum": [4711, 8250]}, "8250.", 8250),
        ({"enum": [4711, 8250]}, "8 250 euros", 8250),
        ({"enum": ["x", 1]}, "1", 1),
        ({"const": True}, "True", True),
        (["null", "integer"], "5", 5),
        (["string", "integer"], "5", "5"),
    ],
)
def test_plain_answers_become_the_fields_type(schema, answer, value):
    found = read({"type": schema} if isinstance(schema, list) else schema, answer)
    assert (found.value, found.problem, found.said) == (value, None, answer)
    assert type(found.value) is type(value)


@pytest.mark.parametrize(
    ("schema", "answer", "said"),
    [
        (INTEGER, "1,234", r'"1,234" may be 1\.234 or 1234; decimal'),
        (INTEGER, "2.5", r'2\.5 breaks type: "integer"'),
        (INTEGER, "none", '"none" is not written in digits'),
        (INTEGER, "9" * 30, "does not fit int64"),
        (INTEGER, "In 1999.", "stands beside it"),
        ({"type": "number"}, "9" * 5000, "not plainly one number"),
        ({"type": "number"}, "1e400", '"1e400" is too large'),
        ({"type": "boolean"}, "perhaps", "not plainly yes or no"),
        ({"type": "boolean"}, "No information.", "not plainly yes or no"),
        ({"type": "array"}, "a, b", "holds no JSON array"),
        ({"type": "object"}, '{"a": ', "ends inside its JSON"),
        ({"enum": ["Blue", "Red"]}, "green", r'"green" breaks enum: \["Blue", "Red"\]'),
        ({"enum": ["a", "A"]}, "a!", r'"a!" breaks enum'),
        ({"enum": [4711, 8250]}, "4712", "4712 breaks enum"),
        ({"type": "string", "pattern": "^[0-9]{4}$"}, "471", "breaks pattern"),
        ({"type": "string", "format": "date"}, "4711", 'breaks format: "date"'),
    ],
)
def test_what_is_not_plainly_a_value_is_a_problem(schema, answer, said):
    found = read(schema, answer)
    assert found.value is None
    assert found.said == answer
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.problem)


def test_the_first_reading_with_a_value_is_chosen():
    rule, bad, five = fields(a=INTEGER), Reading(None, "bad"), Reading(5)
    assert rule.choose([Reading(None), bad, five, Reading(6)]) == five
    assert rule.choose([Reading(None), bad]) == bad
    assert rule.choose([Reading(None)]) == Reading(None)
    assert rule.choose([]) is None


def test_a_bad_optional_field_fails_alone():
    rule = fields(["year"], year=INTEGER, city={"type": "string"}, month={"type": "integer", "maximum": 12})
    record = rule.read_record('{"year": 1999, "city": "Ulm", "month": 13}')
    assert rule.checked(record, "raw") == (
        {"year": 1999, "city": "Ulm", "month": None},
        {"month": "13 breaks maximum: 12"},
    )


@pytest.mark.parametrize(
    ("answer", "said", "columns"),
    [
        (
            '{"year": "soon", "city": "Ulm"}',
            r'field year: "soon" breaks type: "integer"; the object: .* breaks required: \["year"\]',
            {"year": None, "city": "Ulm"},
        ),
        ('{"city": "Ulm"}', r'^the object: {"city": "Ulm"} breaks required: \["year"\]', {"year": None, "city": "Ulm"}),
        ('{"year": 1e30}', "field year: 10{30} does not fit int64", {"year": None, "city": None}),
    ],
)
def test_a_bad_required_field_fails_the_document_and_keeps_the_others(answer, said, columns):
    rule = fields(["year"], year=INTEGER, city={"type": "string"})
    with pytest.raises(AnswerError, match=said) as caught:
        rule.checked(rule.read_record(answer), answer)
    assert (caught.value.output, caught.value.columns) == (answer, columns)


def test_a_document_of_which_no_field_is_left_fails():
    rule = fields(a=INTEGER, b={"type": "number"})
    with pytest.raises(AnswerError, match=r'field a: "x" breaks type.*field b: 10+.* does not fit double'):
        rule.checked(rule.read_record('{"a": "x", "b": 1' + "0" * 390 + "}"), "raw")
    assert rule.checked({}, "raw") == ({"a": None, "b": None}, {})


def test_lists_become_rows_of_structs():
    item = {"type": "object", "properties": {"code": INTEGER, "tags": {"type": "array"}}, "required": ["code"]}
    rule = Fields(check_schema({"type": "array", "items": item}))
    record = rule.read_record('```\n[{"code": 1, "tags": ["a"]}, {"code": 2.0}]\n```')
    cells, failed = rule.checked(record, "raw")
    assert (cells, failed) == ({"items": [{"code": 1, "tags": '["a"]'}, {"code": 2, "tags": None}]}, {})
    pa.Table.from_pylist([cells], schema=pa.schema(rule.columns))
    assert rule.read_record('{"code": 1}') is None
    with pytest.raises(AnswerError, match=r"field items: \[1\]\.code|field items: .*code"):
        rule.checked(rule.read_record('[{"code": 1}, {"code": "x"}]'), "raw")
    both = rule.joined([record["items"], rule.read_record('[{"code": 3}]')["items"]])
    assert [item["code"] for item in both.value] == [1, 2.0, 3]
    assert rule.joined([record["items"], Reading(None, "bad")]).problem == "bad"


def test_records_become_columns():
    rule = fields(i=INTEGER, n={"type": "number"}, s={"type": "string"}, a={"type": "array"}, x=INTEGER)
    record = rule.read_record('{"i": 5.0, "n": 2, "s": "caf\u00e9", "a": ["caf\u00e9", 1]}')
    cells, failed = rule.checked(record, "raw")
    assert cells == {"i": 5, "n": 2.0, "s": "caf\u00e9", "a": '["caf\u00e9", 1]', "x": None}
    assert not failed


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
    answer = json.dumps(record).replace("Infinity", "1e999")
    try:
        cells, _ = rule.checked(rule.read_record(answer), answer)
    except AnswerError as error:
        cells = error.columns
    pa.Table.from_pylist([cells], schema=pa.schema(rule.columns))


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([INTEGER, {"type": "number"}, {"type": "boolean"}, {"type": "array"}, {}]), st.text(max_size=20))
def test_any_plain_answer_is_read_or_a_problem(schema, answer):
    found = read(schema, answer)
    assert found.problem is None or found.value is None
