"""Who stays in a race, and who comes to its end."""

import pytest

from corm_batch.calibration.halving import Standing, confirmed, finalists, fronts, round_sizes, survivors

LIMIT = 0.01


def standing(mean, ratio, spread=0.0005, count=6):
    return Standing([mean + spread * (-1) ** i for i in range(count)], ratio)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (9, [9]), (10, [10, 4]), (21, [21, 7]), (80, [80, 27, 9])])
def test_of_three_policies_one_goes_on(count, sizes):
    assert round_sizes(count) == sizes


def test_fronts_lie_behind_each_other():
    found = fronts({"a": standing(0.1, 0.1), "b": standing(0.0, 0.5), "c": standing(0.1, 0.5), "d": standing(0.2, 0.6)})
    assert found == [["a", "b"], ["c"], ["d"]]
    twins = {"a": standing(0.1, 0.1), "b": standing(0.1, 0.1)}
    assert fronts(twins) == [["a", "b"]]


def test_what_clearly_loses_too_much_goes_first_then_what_others_beat():
    found = {
        "safe": standing(0.001, 0.6), "near": standing(0.009, 0.3), "beaten": standing(0.0095, 0.5),
        "lossy": standing(0.5, 0.1), "unsure": standing(0.02, 0.2, spread=0.05),
    }  # fmt: skip
    assert survivors(found, LIMIT, 3) == ["near", "safe", "unsure"]
    assert survivors(found, LIMIT, 4)[-1] == "beaten"
    assert set(survivors(found, LIMIT, 5)) == set(found)


def test_a_single_document_shows_nothing_clearly():
    found = {"lossy": Standing([0.5], 0.1), "beaten": Standing([0.6], 0.2)}
    assert survivors(found, LIMIT, 1) == ["lossy"]


def test_finalists_go_from_the_fewest_bytes_to_one_that_is_most_likely_safe_and_the_safest_of_all():
    found = {
        "b": standing(0.002, 0.5), "a": standing(0.009, 0.3, spread=0.004), "c": standing(0.001, 0.9),
        "out": standing(0.02, 0.1),
    }  # fmt: skip
    assert finalists(found, LIMIT) == ["a", "b", "c"]
    assert finalists({"b": found["b"], "c": found["c"]}, LIMIT) == ["b", "c"]
    assert finalists({"c": found["c"]}, LIMIT) == ["c"]
    unsure = {str(i): standing(0.009, 0.1 + i / 10, spread=0.01 - i / 1000) for i in range(5)}
    assert finalists(unsure, LIMIT) == ["0", "1", "4"]


def test_where_none_meets_the_limit_the_best_is_confirmed():
    assert finalists({"a": standing(0.5, 0.1), "b": standing(0.2, 0.2)}, LIMIT) == ["b"]


def test_bounds_of_several_finalists_hold_together():
    losses = {"a": [0.0, 0.01, 0.02], "b": [0.0, 0.01, 0.02]}
    alone = confirmed({"a": losses["a"]}, losses)["a"]
    both = confirmed(losses, losses)
    assert alone.high < both["a"].high < both["b"].high
    assert both["a"].mean == alone.mean


def test_where_nothing_seems_to_be_lost_one_of_many_bytes_stays_to_the_end():
    """Seven documents may show no loss of a policy that loses much on the eighth."""
    ratios = {"a": 0.1, "b": 0.11, "c": 0.3, "d": 0.5, "e": 0.6}
    alike = {name: Standing([0.0, 1e-7, -1e-7], ratio) for name, ratio in ratios.items()}
    assert "e" in survivors(alike, LIMIT, 2)
    assert finalists(alike, LIMIT) == ["a", "c", "e"]
