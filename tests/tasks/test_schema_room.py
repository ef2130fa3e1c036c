"""Shares of an answer's characters: what a schema says counts in full, the rest is shared out."""

import pytest

from corm_batch.tasks.schema_room import Room

TEXT = {"type": "string"}
ROOT = {"$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}, "text": TEXT}}}}


@pytest.mark.parametrize(
    ("schema", "num_open"),
    [
        (TEXT, 1),
        ({"type": "string", "maxLength": 40}, 0),
        ({"type": "string", "maxLength": 4000}, 1),
        ({"type": "string", "format": "date"}, 0),
        ({"enum": ["a", 1]}, 0),
        ({"type": ["integer", "null"]}, 0),
        ({"type": ["string", "null"]}, 1),
        ({"anyOf": [TEXT, {"type": "array"}]}, 1),
        ({"type": "object", "properties": {"a": TEXT, "b": {"type": "object", "properties": {"c": TEXT}}}}, 2),
        (True, 1),
        (False, 0),
        ({"$ref": "#/$defs/N"}, 5),
    ],
)
def test_texts_and_lists_without_an_end_are_counted(schema, num_open):
    assert Room.of(schema, ROOT).num_open == num_open


def test_what_is_not_said_in_full_is_shared_out():
    two = Room.of({"type": "object", "properties": {"a": TEXT, "b": TEXT, "c": {"type": "integer"}}}, {})
    assert two.num_open * two.share(600) + two.fixed <= 600
    assert two.share(600) > two.share(300) > two.share(10) > 0


def test_a_list_has_room_for_all_it_may_hold():
    for item in (Room.of(TEXT, {}), Room.of({"type": "object", "properties": {"a": TEXT, "b": TEXT}}, {})):
        for num_chars in (300, 1000):
            items = item.items(num_chars)
            assert items >= 3
            assert items * (item.num_open * item.share(num_chars // items) + item.fixed) <= num_chars * 1.1
    assert Room.of({"type": "integer"}, {}).items(300) == 25
