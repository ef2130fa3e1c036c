"""Jinja as prompts are written in it: sandboxed, and strict about what is not there. Knows nothing of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, UndefinedError, meta, nodes, pass_context
from jinja2.sandbox import SandboxedEnvironment


@pass_context  # and so no constant is evaluated, however large, while a spec is read
def _not_null(_: Any, value: Any) -> Any:
    """Refuse to print a null, which would read "None" in the prompt."""
    if value is None:
        raise UndefinedError("a value it prints is null in this row (use {% if %} or the filter default('', true))")
    return value


ROW = "row"
"""What holds all columns by name, where a name is not one word."""

ENVIRONMENT = SandboxedEnvironment(
    undefined=StrictUndefined, finalize=_not_null, keep_trailing_newline=True, optimized=False
)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    """The template, parsed once."""
    return ENVIRONMENT.from_string(source)


def render(template: str, columns: Mapping[str, Any], limit: int) -> tuple[bool, str]:
    """Whether it can be rendered over `columns` in at most `limit` characters, and the text or why not."""
    try:
        text = _compiled(template).render(columns)
    except Exception as error:  # an expression in a template can raise anything
        return False, f"{type(error).__name__}: {error}"
    if len(text) > limit:
        return False, f"{len(text):,} characters, of which there may be {limit:,}"
    return True, text


def variables(template: str) -> set[str]:
    """Names the template takes from outside; of `row["any name"]` the name, unless `row` is itself a column.

    `range`, `dict` and the like are Jinja's own where they are called, and names like others where they are not.
    """
    tree = ENVIRONMENT.parse(template)
    called = {one.node.name for one in tree.find_all(nodes.Call) if isinstance(one.node, nodes.Name)}
    named = {one.name: one.ctx for one in tree.find_all(nodes.Name) if one.name in ENVIRONMENT.globals}
    names = meta.find_undeclared_variables(tree)
    names |= {name for name, context in named.items() if context == "load" and name not in called}
    items = [
        item for item in tree.find_all(nodes.Getitem) if isinstance(item.node, nodes.Name) and item.node.name == ROW
    ]
    columns = {
        item.arg.value for item in items if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str)
    }
    uses = sum(name.name == ROW for name in tree.find_all(nodes.Name))
    return (names - {ROW}) | columns if ROW in names and uses == len(items) else names
