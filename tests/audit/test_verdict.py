import math
from dataclasses import dataclass

import pytest

from corm_batch.audit.verdict import Verdict, joined, verdict


@dataclass
class Scored:
    logprobs: tuple
    best_logprobs: tuple


def test_tokens_within_the_least_gap_agree():
    scores = Scored((-0.1, -0.9, -2.0, -0.3), (-0.1, -0.5, -0.5, -0.3))
    found = verdict(scores, 0.4)
    assert found == Verdict(4, 3, 2, 1.5, pytest.approx(-0.825))
    assert found.agreement == 0.75
    assert (verdict(scores, 0.39).first_difference, verdict(scores, 1.5).first_difference) == (1, None)


def test_a_forbidden_token_differs_and_no_number_is_no_verdict():
    found = verdict(Scored((-math.inf, -0.1), (-0.2, -0.1)), 5.0)
    assert (found.first_difference, found.largest_gap, found.logprob_full) == (0, math.inf, -math.inf)
    with pytest.raises(ValueError, match="no numbers from token 1 on"):
        verdict(Scored((-0.1, math.nan), (-0.1, -0.1)), 5.0)
    with pytest.raises(ValueError, match="no numbers from token 0 on"):
        verdict(Scored((-0.1,), (math.nan,)), 5.0)


def test_an_empty_answer_agrees():
    assert verdict(Scored((), ()), 0.0) == joined([]) == Verdict(0, 0, None, 0.0, 0.0)
    assert joined([]).agreement == 1.0


def test_answers_about_one_document_are_joined_in_order():
    one, two, three = Verdict(4, 4, None, 0.1, -0.5), Verdict(6, 4, 3, 2.0, -1.0), Verdict(2, 0, 0, 1.0, -2.0)
    assert joined([one, two, three]) == Verdict(12, 8, 7, 2.0, pytest.approx(-1.0))
    assert joined([three, one]).first_difference == 0
    assert joined([one]) == one
