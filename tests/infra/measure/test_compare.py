"""Two checkouts side by side: this one beside itself, in turn."""

from pathlib import Path

import pytest

from infra.measure.compare import compare

ROOT = Path(__file__).parents[3]


def test_turns_are_counted_without_the_first_and_the_ratio_is_of_medians():
    record = compare(ROOT, ROOT, "tiny-256:1:exact", "cpu", repeats=1)
    assert {side: len(turns) for side, turns in record["turns"].items()} == {"before": 1, "after": 1}
    before, after = record["medians"]["before"], record["medians"]["after"]
    assert before["wall_s"] == record["turns"]["before"][0]["wall_s"] > 0
    assert record["after_over_before"]["wall_s"] == after["wall_s"] / before["wall_s"]


def test_a_checkout_that_fails_is_told():
    with pytest.raises(RuntimeError, match="ended with status 1"):
        compare(ROOT, ROOT, "no-such-workload:1:exact", "cpu", repeats=1)
