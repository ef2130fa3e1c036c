"""The figures that verification is judged by follow from rows of a full and of a compressed cache."""

from types import SimpleNamespace

import pytest

from corm_batch.output.rows import DocumentRow
from infra.measure.verification import Run, agreeing, detected

SUITE = SimpleNamespace(score=lambda case, text: {"said": float(case in text)})
ASKED = [SimpleNamespace(key=str(number), case="7", suite=SUITE) for number in range(6)]


def rows(*answers, rerun=()):
    return {
        str(number): DocumentRow({"output": text, "largest_gap": gap, "rerun": number in rerun}, {})
        for number, (text, gap) in enumerate(answers)
    }


FULL = rows(*[("It is 7", 0.0)] * 5, ("unknown", 0.0))
HARSH = rows(("It is 7", 0.0), ("7", 0.3), ("It is 8", 2.0), ("It is 9", 0.2), ("It is 7", 0.6), ("9", 4.0))


def test_what_compression_made_wrong_is_counted_by_whether_it_was_flagged():
    found = detected(ASKED, FULL, HARSH, 0.5)
    assert found["flagged"]["hits"] == 3
    assert found["wrong_by_compression"] == 2  # the last one the full cache does not know either
    assert (found["of_these_flagged"]["hits"], found["of_these_flagged"]["of"]) == (1, 2)
    passed = found["passed_with_the_full_caches_text"]
    assert (passed["hits"], passed["of"], passed["share"]) == (1, 3, pytest.approx(1 / 3))
    assert found["passed_gap"] == 0.3


def test_a_smaller_gap_finds_more():
    assert detected(ASKED, FULL, HARSH, 0.1)["of_these_flagged"]["share"] == 1
    assert detected(ASKED, FULL, FULL, 0.1)["of_these_flagged"]["share"] is None


def test_answers_given_again_are_held_against_the_full_caches_second_ones():
    again = rows(*[("It is 7", 0.0)] * 4, ("7", 0.1), ("unknown", 0.0))
    answered_again = rows(*[("It is 7", 0.0)] * 3, ("It is 9", 0.2), ("It is 7", 0.0), ("unknown", 0.0), rerun={2, 5})
    found = agreeing(ASKED, FULL, again, answered_again)
    assert found["answered_again"] == 2
    assert found["same_text"] == found["same_text_floor"] == pytest.approx(5 / 6)
    assert (found["right_full"], found["right"]) == (pytest.approx(5 / 6), pytest.approx(4 / 6))


def test_documents_an_hour_are_those_of_the_run():
    assert Run(FULL, 12.0).told() == {"seconds": 12.0, "documents_per_hour": 1800}
