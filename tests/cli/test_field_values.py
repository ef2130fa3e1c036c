from corm_batch.cli.field_values import EXAMPLES, UNITS, example_of, unit_of


def test_a_unit_goes_by_the_name_of_a_field():
    assert (unit_of("max_new_tokens"), unit_of("recent"), unit_of("system")) == ("tokens", "entries", None)
    assert all(UNITS.values())


def test_an_example_is_a_named_one_or_another_choice_than_the_default():
    assert example_of("output", "uri", {}) == EXAMPLES["output.uri"]
    assert example_of("source.parquet", "uri", {}) == EXAMPLES["uri"]
    assert example_of("", "name", {}) == "papers"
    assert example_of("x", "y", {"type": "boolean", "default": True}) is False
    assert example_of("x", "y", {"enum": ["a", "b"], "default": "a"}) == "b"
    assert example_of("x", "y", {"type": "integer", "default": 7}) == 7
