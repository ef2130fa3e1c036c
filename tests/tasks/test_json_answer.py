import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corm_batch.errors import CutOffError
from corm_batch.tasks.json_answer import Contradiction, json_values, whole_members


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('Sure!\n```json\n{"a": {"b": [1]}}\n```\nAnything else?', [{"a": {"b": [1]}}]),
        ('{curly} talk, then {"a": 1} and {"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{} then {"a": 1}', [{}, {"a": 1}]),
        ('[{"a": 1}]', [[{"a": 1}]]),
        ('{"a": "two\nlines\tand a tab"}', [{"a": "two\nlines\tand a tab"}]),
        ('{"a": [1, 2,], "b": {"c": 3, } ,}', [{"a": [1, 2], "b": {"c": 3}}]),
        ('{"a": "text, }",\n}', [{"a": "text, }"}]),
        ('{"a": NaN}', []),
        ('{"a": ' + "9" * 5000 + "}", [{"a": "9" * 5000}]),
        ('{"a": 1e999}', [{"a": "1e999"}]),
        ('{"a": 9007199254740993.0, "b": 0.1, "c": 1e3}', [{"a": 9007199254740993, "b": 0.1, "c": 1000.0}]),
        ('{"a": 1, "b": {"c": 2, "c": 2}, "a": 1.0}', [{"a": 1, "b": {"c": 2}}]),
        ('{"a": 1, "a": "x"}', [{"a": Contradiction((1, "x"))}]),
        ('{"a": 1, "a": 1.0}', [{"a": 1}]),
        ('{"a": true, "a": 1}', [{"a": Contradiction((True, 1))}]),
        ('{"a": [{"b": 0}], "a": [{"b": false}]}', [{"a": Contradiction(([{"b": 0}], [{"b": False}]))}]),
        ("a stray { and a stray [", []),
        ("no JSON", []),
        ("", []),
        ('{"a":' * 100_000, []),
        ('{"a": 1,, "b": 2}', []),
    ],
)
def test_values_are_found_whatever_stands_around_them(answer, found):
    assert json_values(answer) == found


def test_what_is_said_twice_before_the_end_is_contradicted_too():
    assert whole_members('{"a": 1, "b": 2, "a": 3, "c": ') == {"a": Contradiction((1, 3)), "b": 2}


@pytest.mark.parametrize(
    "answer",
    ['{"a": 1', '{"a": {"b": 1}, "c": "x', '{"a": 1} or better {"a": ', '[{"a": 1}, {"a"', '{"', '{"a": [1, 2,'],
)
def test_json_without_an_end_is_no_answer(answer):
    with pytest.raises(CutOffError, match="ends inside its JSON"):
        json_values(answer)


@settings(deadline=None, derandomize=True)
@given(st.text(alphabet='{}[]":,0a\\u ', max_size=60))
def test_parsing_any_answer_never_raises_anything_else(answer):
    values = []
    with suppress(CutOffError):
        values = json_values(answer)
    assert all(isinstance(value, dict | list) for value in values)


def test_an_answer_of_brackets_takes_no_time():
    began = time.process_time()
    json_values("{" * 20_000 + '{"a":1,}' * 2_000 + "[1,]" * 2_000)
    assert time.process_time() - began < 5


def test_large_records_survive_as_they_are():
    record = {"text": 'a "quoted", [bracketed], {braced} text, ]', "list": list(range(1000))}
    assert json_values(f"Here: {json.dumps(record, indent=1)}") == [record]
