"""Expressions over named values: names, values, and what is none."""

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from corm_batch.data.expressions import checked_names, names_in, value_of


def test_names_of_an_expression():
    assert names_in('amount > 0 and row["due-date"]') == {"amount", "due-date"}
    assert checked_names("1 > 0") == frozenset()


@pytest.mark.parametrize("expression", ["amount >", "a) or (b", "a }}{{ b", "a | nothing", "self == 1"])
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError, match=r"is no expression: "):
        checked_names(expression)


@pytest.mark.parametrize("expression", ["order.items", "not order.items", "order.items == 2", "order.items > 2"])
def test_a_method_is_no_value_of_a_row(expression):
    """Which would be true, and no 2, where an object has no such name."""
    with pytest.raises(UndefinedError, match="items is a method of dict, not a column or a part of one"):
        bool(value_of(expression, {"order": {}}))
    assert value_of("order.items() | list", {"order": {}}) == []


def test_values_are_those_of_the_row_and_the_sandbox_holds():
    assert value_of('row["due-date"] == 3 and not missing', {"due-date": 3}) is True
    assert value_of("tags | length", {"tags": ["a", "b"]}) == 2
    assert value_of("order.items == 2 and tag.upper() == 'A'", {"order": {"items": 2}, "tag": "a"}) is True
    with pytest.raises(SecurityError):
        bool(value_of("amount.__class__", {"amount": 1}))
