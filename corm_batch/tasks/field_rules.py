"""Rules over fields, as expressions of Jinja's sandbox: `amount > 0`, `start <= end`, `row["due-date"] is not none`.

An expression that cannot be evaluated because a field is null says nothing. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.environment import TemplateExpression

from corm_batch.data.template import ENVIRONMENT, ROW, variables


def check_rule(rule: str, names: Iterable[str]) -> None:
    """Refuse what is no expression over fields of these names.

    Raises:
        ValueError: why.
    """
    known = list(names)
    try:
        named = fields_of(rule)
        _compiled(rule)
    except TemplateSyntaxError as error:
        raise ValueError(f"{rule!r} is no expression: {error.message}") from error
    if unknown := sorted(named - set(known)):
        raise ValueError(f"{rule!r} names {', '.join(unknown)}; the fields are {', '.join(known)}")
    if not named:
        raise ValueError(f"{rule!r} names no field; the fields are {', '.join(known)}")


@lru_cache(maxsize=256)
def fields_of(rule: str) -> frozenset[str]:
    """Fields in an expression."""
    return frozenset(variables(f"{{{{ ({rule}\n) }}}}"))


def broken(rule: str, values: Mapping[str, Any]) -> str:
    """What is wrong with the fields that a checked rule names, with their values; "" where it holds or says nothing.

    Args:
        rule: the expression.
        values: of every field; None for null.
    """
    named = {name: values.get(name) for name in sorted(fields_of(rule))}
    try:
        if _compiled(rule)({ROW: values, **named}):
            return ""
        why = "breaks"
    except Exception as error:  # an expression can raise anything
        if None in named.values():
            return ""
        why = f"cannot be held against ({type(error).__name__}: {error})"
    said = ", ".join(f"{name} = {repr(value)[:100]}" for name, value in named.items())
    return f"{said} {why} validate: {rule}"


@lru_cache(maxsize=256)
def _compiled(rule: str) -> TemplateExpression:
    return ENVIRONMENT.compile_expression(rule, undefined_to_none=False)
