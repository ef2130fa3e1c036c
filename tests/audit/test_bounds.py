from itertools import pairwise
from math import comb

import pytest

from corm_batch.audit.bounds import lower_bound, upper_bound


def at_most(differing, verified, share):
    return sum(comb(verified, k) * share**k * (1 - share) ** (verified - k) for k in range(differing + 1))


@pytest.mark.parametrize(("differing", "verified"), [(0, 1), (0, 60), (1, 60), (7, 60), (59, 60), (3, 400)])
def test_so_few_are_as_unlikely_under_the_upper_bound_as_stated(differing, verified):
    assert at_most(differing, verified, upper_bound(differing, verified)) == pytest.approx(0.05)
    assert at_most(differing, verified, upper_bound(differing, verified, 0.99)) == pytest.approx(0.01)


def test_known_upper_bounds():
    assert upper_bound(1, 60) == pytest.approx(0.0766, abs=5e-5)
    assert upper_bound(0, 60) == pytest.approx(1 - 0.05 ** (1 / 60))  # the rule of three, exactly
    assert upper_bound(60, 60) == upper_bound(0, 0) == 1.0


def test_lower_bound_rises_with_what_differs_and_falls_with_what_does_not():
    assert lower_bound(0, 100) == 0.0
    assert lower_bound(1, 1) == pytest.approx(0.025)  # (1/2) / p = 20
    assert all(low < high for low, high in pairwise(lower_bound(k, 200) for k in range(201)))
    assert all(high > low for high, low in pairwise(lower_bound(5, n) for n in range(5, 200)))
    assert all(lower_bound(k, 200) < k / 200 for k in range(1, 201))
    assert lower_bound(5_000, 50_000) == pytest.approx(0.1, abs=0.006)
