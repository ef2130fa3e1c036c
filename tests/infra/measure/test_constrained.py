"""What is planted stands in its document, and answers count as a reader would count them."""

import json

import pytest

from infra.measure.constrained import is_valid, plain, planted, right_fields

WORDS = [f"w{place}" for place in range(500)]


def test_every_fact_stands_in_its_document():
    text, thing = planted(3, WORDS, 40)
    assert (text, thing) == planted(3, WORDS, 40)
    assert text != planted(4, WORDS, 40)[0]
    for fact in (thing.item, thing.owner.name, thing.owner.city, str(thing.year), thing.state, *thing.kept_with):
        assert fact in text
    assert sum(word.startswith("w") and word[1:].isdigit() for word in text.split()) == 40


def test_right_fields_are_those_a_reader_would_take():
    _, thing = planted(3, WORDS, 40)
    said = {**thing.model_dump(), "owner": json.dumps(thing.owner.model_dump()), "item": f"The {thing.item}."}
    said["kept_with"] = json.dumps(thing.kept_with[::-1])
    assert all(right_fields(said, thing).values())
    wrong = right_fields({**said, "year": thing.year + 1, "owner": {"name": thing.owner.name}, "kept_with": []}, thing)
    assert [name for name, hit in wrong.items() if not hit] == ["owner.city", "year", "kept_with"]
    assert not any(right_fields(None, thing).values())


@pytest.mark.parametrize(
    ("output", "reason", "valid"),
    [
        ("{whole}", "stop", True),
        ("```json\n{whole}\n```", "stop", True),
        ("{whole}", "length", False),
        ("Here: {whole}", "stop", False),
        ('{"item": "x"}', "stop", False),
    ],
)
def test_valid_is_what_pydantic_takes_and_came_to_its_end(output, reason, valid):
    _, thing = planted(3, WORDS, 40)
    assert is_valid(output.replace("{whole}", thing.model_dump_json()), reason) == valid


def test_a_plain_schema_has_no_titles():
    assert plain({"title": "A", "properties": {"a": {"title": "B", "type": "string"}}}) == {
        "properties": {"a": {"type": "string"}}
    }
