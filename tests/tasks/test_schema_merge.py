"""Several schemas of one value as one: what each of them allows."""

from corm_batch.tasks.schema_merge import merged


def test_several_schemas_of_one_value_are_one():
    assert merged([{"type": "number", "minimum": 2}, True, {"type": ["integer", "null"], "minimum": 1}]) == {
        "type": ["integer"],
        "minimum": 2,
    }
    assert merged([{}, False]) is False


def test_properties_and_choices_are_merged_one_by_one():
    first = {"properties": {"a": {"maxLength": 3}, "b": True}, "required": ["a"], "anyOf": [{}, {"enum": [1, 2]}]}
    second = {"properties": {"a": {"maxLength": 2}}, "required": ["b", "a"], "anyOf": [{"enum": [2]}]}
    both = merged([first, second])
    assert both["properties"] == {"a": {"maxLength": 2}, "b": True}
    assert both["required"] == ["a", "b"]
    assert both["anyOf"] == [{"enum": [2]}, {"enum": [2]}]
