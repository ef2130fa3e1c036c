"""Differences of pairs: against known values, and intervals that hold as often as they say."""

import numpy as np
import pytest
from scipy import stats

from corm_batch.evaluation.paired import paired_means, paired_shares, share_bounds


def test_shares_count_what_was_lost_and_won():
    found = paired_shares([1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0])
    assert (found.cases, found.lost, found.won) == (6, 3, 1)
    assert (found.here, found.there, found.difference) == (pytest.approx(4 / 6), pytest.approx(2 / 6), -2 / 6)
    assert found.p_value == pytest.approx(0.625)  # of four uneven pairs three or more on one side


def test_nothing_lost_of_few_is_not_nothing_lost():
    found = paired_shares([1] * 16, [1] * 16)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.low == pytest.approx(-(1 - 0.0125 ** (1 / 16)))  # the bound of nothing in 16, at 1.25 %
    assert found.high == -found.low


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 59, 0.0, 0.0606), (5, 50, 0.0333, 0.2181), (50, 50, 0.9289, 1), (0, 0, 0, 1)]
)
def test_bounds_of_a_share_are_clopper_and_pearsons(hits, count, low, high):
    assert share_bounds(hits, count) == pytest.approx((low, high), abs=5e-5)


def test_means_are_the_paired_t_test_of_scipy():
    random = np.random.default_rng(0)
    here = random.normal(size=30)
    there = here - 0.1 + random.normal(size=30) / 9
    found = paired_means(list(here), list(there))
    known = stats.ttest_rel(there, here)
    assert found.difference == pytest.approx(np.mean(there - here))
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))
    assert found.lost + found.won == 30
    assert found.p_value is None


@pytest.mark.parametrize(("here", "there"), [([0.5], [0.25]), ([0.5, 1.0], [0.25, 0.75])])
def test_differences_without_spread_have_no_interval(here, there):
    found = paired_means(here, there)
    assert (found.difference, found.low, found.high) == (-0.25, None, None)


@pytest.mark.parametrize(("right", "lost", "won"), [(0.9, 0.05, 0.02), (0.5, 0.2, 0.2), (1.0, 0.0, 0.0)])
def test_the_interval_of_shares_holds_in_95_of_100_evaluations(right, lost, won):
    random = np.random.default_rng(1)
    truth, held = right * -lost + (1 - right) * won, 0
    for _ in range(100):
        here = random.random(60) < right
        there = np.where(here, random.random(60) >= lost, random.random(60) < won)
        found = paired_shares(here.astype(float), there.astype(float))
        held += found.low <= truth <= found.high
    assert held >= 95
