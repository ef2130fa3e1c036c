import pytest

from corm_batch.text.repetition import LOOPING, repetition

PROSE = tuple(range(300))


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [((), 0.0), ((1, 1, 1), 0.0), (PROSE, 0.0), ((1,) * 103, 0.99), ((1, 2, 3, 4) * 2, 0.2)],
)
def test_share_of_four_grams_that_stood_before(token_ids, share):
    assert repetition(token_ids) == pytest.approx(share)


@pytest.mark.parametrize("period", [1, 7, 60])
def test_a_loop_counts_also_when_it_begins_late(period):
    loop = tuple(range(1000, 1000 + period))
    assert repetition(PROSE + loop * (150 // period + 1)) >= LOOPING


def test_a_long_paragraph_over_and_over_is_a_loop():
    assert repetition(PROSE * 3) >= LOOPING


def test_records_of_one_form_are_no_loop():
    records = [
        token for number in range(20) for token in (1, 2, 100 + number, 3, 4, 5, 6, 200 + number, 300 + number, 7)
    ]
    assert 0.0 < repetition(records) < LOOPING
