from dataclasses import asdict

from corm_batch.audit.verdict import Verdict
from corm_batch.audit.verification import Verification


def test_a_sampled_answer_has_probabilities_only():
    found = Verification.done(0.5, Verdict(4, 3, 2, 1.5, -0.4), -0.1, 2.0, sampled=True)
    assert (found.verified, found.agreement, found.first_difference, found.largest_gap) == (True, None, None, None)
    assert (found.logprob_full, found.logprob_kept, found.verify_s, found.differs) == (-0.4, -0.1, 2.0, False)


def test_a_greedy_one_is_compared():
    found = Verification.done(0.5, Verdict(4, 3, 2, 1.5, -0.4), -0.1, 2.0, sampled=False)
    assert (found.agreement, found.first_difference, found.largest_gap, found.rerun) == (0.75, 2, 1.5, False)
    assert found.differs
    again = found.answered_again()
    assert (again.rerun, again.first_difference, again.verify_error) == (True, 2, None)


def test_without_verification_every_column_is_null():
    assert set(asdict(Verification()).values()) == {None}
    assert Verification.failed(0.5, "too small").verified is None
