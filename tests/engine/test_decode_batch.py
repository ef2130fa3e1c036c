"""Rows of a decode step: which of them read together what they share."""

from __future__ import annotations

import pytest

from corm_batch.engine.decode_batch import leaders
from corm_batch.engine.request import Request
from corm_batch.engine.work import Decode
from tests.engine.test_readings import ANSWER, DOCUMENT, assert_nothing_is_held, finish
from tests.engine.test_scheduler import make_engine


@pytest.mark.parametrize(
    ("sources", "at_once", "expected"),
    [
        ("", 4, []),
        ("-", 4, [0]),
        ("--aab", 4, [0, 1, 2, 2, 4]),
        ("aaaaaaaabb", 4, [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]),
        ("-aaaaab-ba", 3, [0, 1, 1, 1, 4, 4, 6, 7, 8, 9]),
        ("aaa", 1, [0, 1, 2]),
    ],
)
def test_neighbours_over_one_reading_are_groups_of_at_most_so_many(sources, at_once, expected):
    readings = {name: object() for name in sources}
    assert leaders([None if name == "-" else readings[name] for name in sources], at_once) == expected


def test_those_over_one_reading_stand_side_by_side_whenever_they_came(tiny_llama):
    """Four query heads of two kv heads: eight rows are read at once."""
    engine, batches = make_engine(tiny_llama, {"name": "full"}, step_token_budget=300), []
    readings = [engine.read(DOCUMENT[number:], id=str(number)) for number in range(2)]
    for number in range(5):
        engine.add(Request(f"q{number}", [number], ANSWER, reading=readings[number % 2]))
    engine.add(Request("alone", DOCUMENT, ANSWER))
    schedule = engine.scheduler.schedule

    def noted(num_steps):
        work = schedule(num_steps)
        if isinstance(work, Decode):
            names = [one.request.id for one in work.sequences]
            batches.append((names, leaders([one.source for one in work.sequences], 8)))
        return work

    engine.scheduler.schedule = noted
    finish(engine)
    assert batches[0] == (["q0", "q2", "q4", "q1", "q3", "alone"], [0, 0, 0, 3, 3, 5])
    for reading in readings:
        reading.close()
    assert_nothing_is_held(engine)
