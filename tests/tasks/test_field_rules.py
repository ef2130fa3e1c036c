"""Rules over fields: what they say, and what is no rule."""

import pytest

from corm_batch.tasks.field_rules import broken, check_rule

NAMES = ("amount", "start", "end", "tags", "due-date")


@pytest.mark.parametrize(
    "rule", ["amount > 0", "start <= end", "tags | length < 3", 'row["due-date"] is not none', "'a' in tags and amount"]
)
def test_expressions_over_fields_are_rules(rule):
    check_rule(rule, NAMES)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("amount >", "is no expression"),
        ("amount > 0) or (start", "is no expression"),
        ("amount > 0 }}{{ amount", "is no expression"),
        ("amount | nothing", "No filter named 'nothing'"),
        ("price > 0", "names price; the fields are amount, start, end, tags, due-date"),
        ('row["price"] > 0', "names price"),
        ("1 > 0", "names no field"),
    ],
)
def test_what_is_no_rule_is_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        check_rule(rule, NAMES)


@pytest.mark.parametrize(
    ("rule", "values", "said"),
    [
        ("amount > 0", {"amount": 1}, ""),
        ("amount > 0", {"amount": -1}, "amount = -1 breaks validate: amount > 0"),
        ("amount > 0", {}, ""),
        (
            "start <= end",
            {"start": "2020", "end": "2019"},
            "end = '2019', start = '2020' breaks validate: start <= end",
        ),
        ("start <= end", {"start": "2020"}, ""),
        ("end is not none", {}, "end = None breaks validate: end is not none"),
        ("amount > 0", {"amount": "x"}, "amount = 'x' cannot be held against (TypeError: "),
        ('row["due-date"] > 3', {"due-date": 2}, "due-date = 2 breaks validate"),
        ("amount.__class__", {"amount": 1}, "SecurityError"),
        ("order.items | length > 2", {"order": {"items": [1, 2]}}, "breaks validate: order.items"),
        ("range > 0 and dict == 5", {"range": 1, "dict": 5}, ""),
        ("range > 0", {"range": -1}, "range = -1 breaks"),
        ("amount in range(3)", {"amount": 2}, ""),
        ("tags | length < 2", {"tags": ["a", "b"]}, "tags = ['a', 'b'] breaks"),
    ],
)
def test_a_broken_rule_names_fields_values_and_expression(rule, values, said):
    found = broken(rule, values)
    assert said in found
    assert bool(said) == bool(found)
