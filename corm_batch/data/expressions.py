"""Expressions over named values in Jinja's sandbox: `amount > 0`, `start <= end`, `row["due-date"] is not none`.

What may ask for any time and memory, as `'a' * size`, is evaluated in a process that has limits of both. Knows nothing
of what expressions are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.environment import TemplateExpression

from corm_batch.data.render import Renderer
from corm_batch.data.template import ENVIRONMENT, ROW, said_by, variables
from corm_batch.data.unknown_row import UnknownValue, said_whatever

_RENDERER = Renderer()
_HOLDS = "1"
_SMALL = (
    nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Test, nodes.CondExpr, nodes.Const, nodes.Name,
    nodes.List, nodes.Tuple, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub,
    nodes.Div, nodes.FloorDiv, nodes.If, nodes.Output, nodes.TemplateData,
)  # fmt: skip
"""What takes little time and memory whatever the values are, and is not worth a process."""


def checked_names(expression: str) -> frozenset[str]:
    """The names in an expression.

    Raises:
        ValueError: it is none, or can be evaluated over no values.
    """
    try:
        named = names_in(expression)
        _compiled(expression)
    except (TemplateSyntaxError, SyntaxError, RecursionError) as error:
        raise ValueError(f"{expression[:300]!r} is no expression: {error}") from error
    problem = None if _is_small(expression) else _RENDERER.problem_with_every_row(_as_template(expression))
    if problem:
        raise ValueError(f"{expression!r} can be evaluated over no values: {problem}")
    return named


@lru_cache(maxsize=256)
def names_in(expression: str) -> frozenset[str]:
    """The names in an expression; of `row["any name"]` the name."""
    return frozenset(variables(f"{{{{ ({expression}\n) }}}}"))


def holds(expression: str, values: Mapping[str, Any]) -> bool:
    """Whether what an expression says is true.

    Args:
        expression: one that was checked.
        values: by name; None for null.

    Raises:
        ValueError: it cannot be evaluated, or takes more time or memory than it may.
    """
    named = {name: values.get(name) for name in names_in(expression)}
    if not _is_small(expression):
        could, text = _RENDERER.rendered(_as_template(expression), {ROW: named, **named})
        if not could:
            raise ValueError(text)
        return text == _HOLDS
    try:
        return bool(_compiled(expression)({ROW: named, **named}))
    except Exception as error:  # an expression can raise anything
        raise ValueError(said_by(error)) from error


def cannot_hold(expression: str, values: Mapping[str, Any]) -> bool:
    """Whether an expression is false whatever the values are that are None here; False also where that takes long."""
    known = {name: UnknownValue() if values.get(name) is None else values[name] for name in names_in(expression)}
    return _is_small(expression) and said_whatever(_as_template(expression), {ROW: known, **known}) == ""


def _as_template(expression: str) -> str:
    return f"{{% if ({expression}\n) %}}{_HOLDS}{{% endif %}}"


@lru_cache(maxsize=256)
def _is_small(expression: str) -> bool:
    return all(isinstance(node, _SMALL) for node in ENVIRONMENT.parse(_as_template(expression)).find_all(nodes.Node))


@lru_cache(maxsize=256)
def _compiled(expression: str) -> TemplateExpression:
    return ENVIRONMENT.compile_expression(expression, undefined_to_none=False)
