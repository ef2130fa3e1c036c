"""Expressions over named values: names, values, and what is none."""

import pytest
from jinja2.exceptions import SecurityError

from corm_batch.data.expressions import checked_names, names_in, value_of


def test_names_of_an_expression():
    assert names_in('amount > 0 and row["due-date"]') == {"amount", "due-date"}
    assert checked_names("1 > 0") == frozenset()


@pytest.mark.parametrize("expression", ["amount >", "a) or (b", "a }}{{ b", "a | nothing"])
def test_what_is_no_expression_is_refused(expression):
    with pytest.raises(ValueError, match=r"is no expression: "):
        checked_names(expression)


def test_values_are_those_of_the_row_and_the_sandbox_holds():
    assert value_of('row["due-date"] == 3 and not missing', {"due-date": 3}) is True
    assert value_of("tags | length", {"tags": ["a", "b"]}) == 2
    with pytest.raises(SecurityError):
        bool(value_of("amount.__class__", {"amount": 1}))
