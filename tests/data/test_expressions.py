"""Expressions over named values: names, values, and what is none."""

import pytest

from corm_batch.data.expressions import cannot_hold, checked_names, holds, names_in


def test_names_of_an_expression():
    assert names_in('amount > 0 and row["due-date"]') == {"amount", "due-date"}
    assert checked_names("1 > 0") == frozenset()


@pytest.mark.parametrize(
    "expression", ["amount >", "a) or (b", "a }}{{ b", "a | nothing", "self == 1", "(" * 999 + "a" + ")" * 999]
)
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError, match=r"is no expression: "):
        checked_names(expression)


@pytest.mark.parametrize("expression", ["order.items", "not order.items", "order.items == 2", "order.items > 2"])
def test_a_method_is_no_value_of_a_row(expression):
    """Which would be true, and no 2, where an object has no such name."""
    with pytest.raises(ValueError, match="UndefinedError: items is a method of dict, not a column or a part of one"):
        holds(expression, {"order": {}})
    assert not holds("order.items() | list", {"order": {}})


def test_values_are_those_of_the_row_and_the_sandbox_holds():
    assert holds('row["due-date"] == 3 and not missing', {"due-date": 3})
    assert holds("tags | length == 2 and tags | join == 'ab'", {"tags": ["a", "b"]})
    assert holds("order.items == 2 and tag.upper() == 'A'", {"order": {"items": 2}, "tag": "a"})
    with pytest.raises(ValueError, match="SecurityError: "):
        holds("amount.__class__", {"amount": 1})


@pytest.mark.parametrize(
    ("expression", "values", "never"),
    [
        ("year > 4 and kind == 'a'", {"year": 1}, True),
        ("kind == 'a' and year > 4", {"year": 1}, False),
        ("year > 4 or kind == 'a'", {"year": 1}, False),
        ("year > 4 and kind is not none", {"year": 9}, False),
        ('row["year"] > 4', {"year": 1}, True),
        ("year > 'x'", {"year": 1}, False),
    ],
)
def test_what_is_false_whatever_nobody_knows(expression, values, never):
    assert cannot_hold(expression, values) == never


HUGE = [
    "'a' * 10**10",
    "10**(10**10)",
    "(9**9)**(9**9)",
    "[0] * 10**10",
    "'a' | center(10**10)",
    "'%999999999999d' % 1",
]


@pytest.mark.parametrize("huge", [*HUGE, "range(10**10)", "range(99999) | map('center', 99999) | list"])
def test_what_takes_any_time_or_memory_is_refused_before_there_are_values(huge):
    with pytest.raises(ValueError, match=r"can be evaluated over no values: (Memory|Overflow)Error: \w+"):
        checked_names(f"title == {huge}")


@pytest.mark.parametrize("huge", ["'a' * size", "size ** size ** size", "title | center(size)", "[title] * size"])
def test_what_takes_any_time_or_memory_of_some_values_has_an_end(huge):
    expression = f"size < 9 or title in ({huge}) | string"
    checked_names(expression)
    with pytest.raises(ValueError, match=r"^(Memory|Overflow)Error: \w+"):
        holds(expression, {"title": "a", "size": 10**10})
    assert holds(expression, {"title": "a", "size": 3})
