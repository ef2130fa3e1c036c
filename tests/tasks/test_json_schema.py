import time

import pytest

from corm_batch.tasks.json_schema import check_schema, constants_of, decimal_of, resolved, types_of, validator

INTEGER = {"type": "integer"}


def of(definitions=None, **properties):
    return {"type": "object", "properties": properties, **({"$defs": definitions} if definitions else {})}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, "must have type: object"),
        ({"type": "object", "properties": {}}, "must have type: object"),
        ({"type": "string"}, "must have type: object, .*or type: array"),
        (of(a=True), "each have a schema"),
        (of(a={"type": "int"}), r"\$\.properties\.a\.type: 'int'"),
        (of(a={"const": object()}), "not JSON serializable"),
        (of(a={"type": "number", "decimal": ";"}), r"\$\.properties\.a: decimal is ';'"),
    ],
)
def test_schemas_that_cannot_work_are_refused(schema, said):
    with pytest.raises(ValueError, match=said):
        check_schema(schema)


@pytest.mark.parametrize(
    "part",
    [
        {"$ref": "https://host/x"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "other.json#/$defs/A"},
        {"$ref": "#/properties/a"},
        {"$ref": "#"},
        {"$ref": "#anchor"},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "#/$defs/A/enum"},
        {"$dynamicRef": "http://127.0.0.1:9/x"},
        {"$dynamicRef": "#/$defs/A"},
        {"$recursiveRef": "#"},
        {"$id": "http://127.0.0.1:9/"},
        {"$schema": "http://127.0.0.1:9/"},
        {"items": {"anyOf": [{"not": {"$ref": "http://127.0.0.1:9/x"}}]}},
        {"patternProperties": {"^a$": {"$dynamicRef": "x"}}},
    ],
)
def test_references_that_leave_the_schemas_own_defs_are_refused(part):
    with pytest.raises(ValueError, match=r"^no valid JSON Schema: \$\.properties\.a"):
        check_schema(of({"A": {"enum": ["x"]}}, a=part))


def test_a_schema_of_elsewhere_is_refused_and_that_of_json_schema_is_not():
    with pytest.raises(ValueError, match=r"\$schema 'http://127.0.0.1:9/' is not of json-schema\.org"):
        check_schema({"$schema": "http://127.0.0.1:9/", **of(a={})})
    check_schema({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://host/mine", **of(a={})})


def test_names_and_data_that_look_like_references_are_none():
    check_schema(of(**{"$ref": {"enum": [{"$ref": "http://127.0.0.1:9/"}], "default": {"$dynamicRef": "x"}}}))


def test_keys_that_yaml_reads_as_numbers_are_names():
    assert check_schema(of() | {"properties": {1999: INTEGER}})["properties"] == {"1999": INTEGER}


def test_a_checker_can_reach_nothing_outside():
    checker = validator({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}})
    with pytest.raises(Exception, match=r"Unresolvable: http://127\.0\.0\.1:9/x"):
        checker.is_valid({"a": 1})


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(a{1,1000}){1,1000}", "("])
def test_patterns_without_a_bound_are_refused(pattern):
    with pytest.raises(ValueError, match=r"pattern|regex"):
        check_schema(of(a={"type": "string", "pattern": pattern}))
    with pytest.raises(ValueError, match=r"pattern|regex"):
        check_schema(of(a={"patternProperties": {pattern: {}}}))


def test_a_pattern_that_explodes_elsewhere_takes_no_time():
    checker = validator(check_schema(of(a={"pattern": "^(a+)+$"}, b={"patternProperties": {"^(a|a)*$": INTEGER}})))
    began = time.process_time()
    assert not checker.is_valid({"a": "a" * 50_000 + "!"})
    assert checker.is_valid({"a": "a" * 50, "b": {"a" * 5_000 + "!": "x"}})
    assert not checker.is_valid({"b": {"aa": "x"}})
    assert time.process_time() - began < 2


def test_references_that_multiply_or_stand_for_themselves_are_refused():
    doubling = {f"A{n}": {"allOf": [{"$ref": f"#/$defs/A{n + 1}"}] * 2} for n in range(30)} | {"A30": INTEGER}
    with pytest.raises(ValueError, match="more than 10,000 schemas"):
        check_schema(of(doubling, a={"$ref": "#/$defs/A0"}))
    with pytest.raises(ValueError, match="stands for itself"):
        check_schema(of({"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}, a={"$ref": "#/$defs/A"}))


def test_a_recursive_schema_checks_every_level():
    node = of(name={"type": "string"}, next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})
    schema = check_schema({"$defs": {"Node": node}, "$ref": "#/$defs/Node"})
    assert set(resolved(schema, schema)["properties"]) == {"name", "next"}
    assert validator(schema).is_valid({"name": "a", "next": {"name": "b", "next": None}})
    assert not validator(schema).is_valid({"name": "a", "next": {"name": "b", "next": {"name": 1}}})


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({}, {"null", "boolean", "integer", "number", "string", "array", "object"}),
        ({"anyOf": [INTEGER, {"type": "null"}], "default": None}, {"integer", "null"}),
        ({"oneOf": [INTEGER, {"type": "number"}]}, {"integer", "number"}),
        ({"enum": [1, 2, None]}, {"integer", "null"}),
        ({"enum": [1, 2.5]}, {"integer", "number"}),
        ({"enum": [1.0]}, {"integer"}),
        ({"const": True}, {"boolean"}),
        ({"$ref": "#/$defs/Color"}, {"string"}),
        ({"allOf": [{"$ref": "#/$defs/Color"}], "default": "red"}, {"string"}),
        ({"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]}, {"string", "null"}),
        ({"type": ["integer", "null"], "enum": [1, "a"]}, {"integer"}),
        ({"anyOf": [True, INTEGER]}, {"null", "boolean", "integer", "number", "string", "array", "object"}),
    ],
)
def test_types_follow_whatever_says_them(schema, types):
    root = {"$defs": {"Color": {"enum": ["red", "blue"]}}}
    assert types_of(schema, root) == types


def test_constants_and_decimals_are_found_behind_references():
    root = {"$defs": {"Color": {"enum": ["red", "blue"]}, "Price": {"type": "number", "decimal": ","}}}
    assert constants_of({"anyOf": [{"$ref": "#/$defs/Color"}, {"const": 5}]}, root) == ["red", "blue", 5]
    assert decimal_of({"anyOf": [{"$ref": "#/$defs/Price"}, {"type": "null"}]}, root) == ","
    assert decimal_of(INTEGER, root) is None


@pytest.mark.parametrize(
    ("step", "right", "wrong"),
    [
        (0.01, [0.07, 19.99, 1234567.89, -0.29, 5, 1e22], [0.075, 19.999]),
        (5, [10, 15.0, -5], [7, 5.5]),
        (0.5, [1.5, 2], [1.25]),
    ],
)
def test_multiples_are_of_numbers_as_they_are_written(step, right, wrong):
    checker = validator({"multipleOf": step})
    assert [one for one in [*right, True, "7"] if not checker.is_valid(one)] == []
    assert [one for one in wrong if checker.is_valid(one)] == []
