"""Bounds of a mean, held to what they say on losses of several shapes."""

import numpy as np
import pytest
from scipy import stats

from corm_batch.calibration.bound import interval

SHAPES = {
    "normal": (lambda rng, size: rng.normal(0.01, 0.01, size), 0.01),
    "exponential": (lambda rng, size: rng.exponential(0.01, size), 0.01),
    "gamma": (lambda rng, size: rng.gamma(0.5, 0.02, size), 0.01),
    "one in three loses": (
        lambda rng, size: rng.normal(0, 0.003, size) + (rng.random(size) < 0.3) * rng.exponential(0.02, size), 0.006,
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_holds_in_95_of_100_samples(shape):
    draw, mean = SHAPES[shape]
    rng = np.random.default_rng(0)
    held = [interval(draw(rng, 16), draw(rng, 16)).high >= mean for _ in range(1000)]
    assert np.mean(held) >= 0.95


def test_without_skewness_it_is_students():
    losses = [-0.02, -0.01, 0.0, 0.01, 0.02]
    found = interval(losses)
    margin = stats.t.ppf(0.95, 4) * np.std(losses, ddof=1) / 5**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.0, -margin, margin))


def test_the_larger_spread_and_the_skewness_of_the_other_documents_count_and_their_mean_does_not():
    calm, wild = [0.0, 0.001, 0.002, 0.001], [0.0, 0.0, 0.0, 0.5]
    alone, beside = interval(calm), interval(calm, wild)
    assert beside.mean == alone.mean == pytest.approx(0.001)
    assert beside.high > 50 * alone.high
    assert beside.low < alone.low
    assert interval(calm, [0.001] * 4).high <= alone.high + 1e-9


def test_losses_that_are_all_the_same_have_no_width():
    found = interval([0.0, 0.0, 0.0], [0.0])
    assert (found.low, found.mean, found.high, found.documents) == (0.0, 0.0, 0.0, 3)
