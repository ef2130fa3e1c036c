"""Requests: what they ask over a reading of their prompt's beginning, and what they are without one."""

import pytest

from corm_batch.engine.request import Request, cut_spans


def test_spans_are_cut_at_a_place_and_counted_from_there():
    assert cut_spans((range(2), range(4, 8)), 6) == ((range(2), range(4, 6)), (range(2),))
    assert cut_spans((range(3),), 3) == ((range(3),), ())
    assert cut_spans((range(3, 5),), 3) == ((), (range(2),))


@pytest.mark.parametrize("instruction", [None, (), (range(2), range(4, 8))])
def test_a_request_over_a_reading_is_the_same_one(instruction):
    request = Request("a", tuple(range(10, 20)), instruction=instruction, uncompressed=True)
    reading = request.beginning(6)
    over = request.over(reading)
    assert (reading.token_ids, over.token_ids) == (tuple(range(10, 16)), tuple(range(16, 20)))
    assert (over.num_prompt_tokens, reading.uncompressed, over.reading) == (10, True, reading)
    if instruction:
        assert (reading.instruction, over.instruction) == ((range(2), range(4, 6)), (range(2),))
        assert over.own_instruction == (range(6, 8),)
        assert over.alone.instruction == (range(2), range(4, 6), range(6, 8))
    else:
        assert reading.instruction == over.instruction == over.own_instruction == instruction
        assert over.alone == request
    assert over.alone.token_ids == request.token_ids
