"""Budgets of candidates."""

from corm_batch.policies.snapkv import SnapKV
from corm_batch.policies.with_budgets import with_budgets


def test_budgets_are_shares_of_any_document():
    found = with_budgets(SnapKV, (0.5, 0.25), "adakv", recent=64, pin_first=4)
    assert [(one.budget.name, one.budget.max_kept, one.recent) for one in found] == [
        ("adakv", 0.5, 64),
        ("adakv", 0.25, 64),
    ]
