"""Expressions over named values in Jinja's sandbox: `amount > 0`, `start <= end`, `row["due-date"] is not none`.

Knows nothing of what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.environment import TemplateExpression

from corm_batch.data.template import ENVIRONMENT, ROW, variables


def checked_names(expression: str) -> frozenset[str]:
    """The names in an expression.

    Raises:
        ValueError: it is none.
    """
    try:
        named = names_in(expression)
        _compiled(expression)
    except TemplateSyntaxError as error:
        raise ValueError(f"{expression!r} is no expression: {error.message}") from error
    return named


@lru_cache(maxsize=256)
def names_in(expression: str) -> frozenset[str]:
    """The names in an expression; of `row["any name"]` the name."""
    return frozenset(variables(f"{{{{ ({expression}\n) }}}}"))


def value_of(expression: str, values: Mapping[str, Any]) -> Any:
    """What an expression says.

    Args:
        expression: one that was checked.
        values: by name; None for null.

    Raises:
        Exception: of any kind, where it cannot be evaluated.
    """
    return _compiled(expression)({ROW: values, **{name: values.get(name) for name in names_in(expression)}})


@lru_cache(maxsize=256)
def _compiled(expression: str) -> TemplateExpression:
    return ENVIRONMENT.compile_expression(expression, undefined_to_none=False)
