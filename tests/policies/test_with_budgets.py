"""Budgets of candidates."""

from corm_batch.policies.snapkv import SnapKV
from corm_batch.policies.with_budgets import with_budgets


def test_budgets_are_shares_of_a_prompt_and_hold_at_least_what_never_leaves():
    found = with_budgets(SnapKV, 4000, (0.5, 0.25, 0.001, 0.002), "adakv", recent=64, pin_first=4)
    assert [(one.budget.name, one.budget.max_kept) for one in found] == [("adakv", 2000), ("adakv", 992), ("adakv", 69)]
