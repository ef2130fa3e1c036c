import pytest

from corm_batch.audit.bounds import upper_bound
from corm_batch.audit.statement import Audited, at_most, bound_of, more_than, statement


def test_a_sample_has_a_bound():
    assert statement([Audited(3000, 60, 1)]) == (
        "verified 60 of 3,000; 1 would have been answered otherwise; with 95 % confidence at most 7.7 % of all"
    )
    assert statement([Audited(3000, 58, 1, 1, 2)]) == (
        "verified 58 of 3,000; 1 would have been answered otherwise; 1 answered again without eviction; "
        "2 could not be verified, which the bound counts as differing; with 95 % confidence at most 12.5 % of all"
    )


def test_all_of_them_have_no_uncertainty():
    assert statement([Audited(27, 27)]) == "verified all 27; 0 would have been answered otherwise"
    assert statement([Audited(27, 27, 3, 3)]) == (
        "verified all 27; 3 would have been answered otherwise, 11.1 % of all; 3 answered again without eviction"
    )
    assert bound_of([Audited(20, 18, 1, 0, 2)]) == 0.15


def test_nothing_known_is_said_as_that():
    assert statement([]) == statement([Audited()]) == ""
    assert statement([Audited(12)]) == "verified 0 of 12, which says nothing of them"
    assert bound_of([]) == bound_of([Audited(12)]) == 1.0
    assert statement([Audited(scored=9)]).startswith("scored 9 with sampled answers")
    assert statement([Audited(12, 12, scored=9)]).startswith(
        "verified all 12; 0 would have been answered otherwise; sc"
    )


def test_documents_of_several_shares_are_bounded_each_by_its_own():
    first, rest = Audited(1000, 50, 1), Audited(100, 100, 60)
    assert bound_of([first, rest]) == pytest.approx((1000 * upper_bound(1, 50) + 60) / 1100)
    assert bound_of([first, first]) == pytest.approx(upper_bound(1, 50, 0.975))
    assert bound_of([first, Audited()]) == bound_of([first])


def test_shares_are_rounded_to_the_safe_side():
    assert [at_most(share) for share in (0.0, 1e-7, 0.00421, 0.0766, 0.3, 1.0)] == [
        *("0 %", "0.01 %", "0.43 %", "7.7 %", "30 %", "100 %")
    ]
    assert [more_than(share) for share in (0.00429, 0.0769, 0.3)] == ["0.42 %", "7.6 %", "30 %"]
