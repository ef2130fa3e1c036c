"""Mixtures are whole, and sequences grow as a run goes on."""

import pytest

from infra.training.schedule import LAST_MIXTURE, LONGEST_FROM, MIXTURE, STAGES, longest, mixture


@pytest.mark.parametrize("shares", [MIXTURE, LAST_MIXTURE])
def test_a_mixture_is_whole(shares):
    assert sum(shares.values()) == pytest.approx(1)
    assert shares.keys() == MIXTURE.keys()
    assert min(shares.values()) > 0


def test_the_last_mixture_is_that_of_the_end():
    assert [mixture(progress) for progress in (0.0, STAGES[-2][0])] == [MIXTURE] * 2
    assert [mixture(progress) for progress in (LONGEST_FROM, 1.0)] == [LAST_MIXTURE] * 2


def test_sequences_grow_up_to_the_longest():
    found = [longest(progress / 1000) for progress in range(1001)]
    assert found == sorted(found)
    assert set(found) == {tokens for _, tokens in STAGES}
    assert longest(LONGEST_FROM) == STAGES[-1][1] > longest(STAGES[-2][0])
