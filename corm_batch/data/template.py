"""Jinja as prompts are written in it: sandboxed, and strict about what is not there. Knows nothing of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, UndefinedError, meta, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment


@pass_context  # and so no constant is evaluated, however large, while a spec is read
def _not_null(_: Any, value: Any) -> Any:
    """Refuse to print a null, which would read "None" in the prompt, or a function, which would read as one."""
    if value is None:
        raise UndefinedError("a value it prints is null in this row (use {% if %} or the filter default('', true))")
    if callable(value) and not isinstance(value, Undefined):
        name = getattr(value, "__name__", type(value).__name__)  # not where it lies: rows that fail alike say the same
        raise UndefinedError(f"a value it prints is a function, not a column or a part of one: {name}")
    return value


class _Method(StrictUndefined):
    """A method of a value that has nothing under its name: not there, but to whoever calls it."""

    jinja_pass_arg = unsafe_callable = alters_data = None  # Jinja asks before a call, and would ask the method that

    def __init__(self, method: MethodType | BuiltinMethodType) -> None:
        owner, name = method.__self__, method.__name__
        hint = f"{name} is a method of {type(owner).__name__}, not a column or a part of one"
        super().__init__(hint, owner, name)
        self._method = method

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._method(*args, **options)


_POWER_BITS = 100_000

ROW = "row"
"""What holds all columns by name, where a name is not one word."""


class _Environment(SandboxedEnvironment):
    """One in which `order.items` is what `order` has under this name; where it has nothing, a method to call alone.

    A power has no more digits than Python can work out in a moment.
    """

    intercepted_binops = frozenset(["**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """What `**` makes of two values."""
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and abs(left) > 1 and right * left.bit_length() > _POWER_BITS:
            raise OverflowError(f"a power of more than {_POWER_BITS:,} bits")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """What a dot leads to."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj, attribute)
        return _Method(found) if isinstance(found, MethodType | BuiltinMethodType) else found


ENVIRONMENT = _Environment(undefined=StrictUndefined, finalize=_not_null, keep_trailing_newline=True, optimized=False)


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    """The template, parsed once."""
    return ENVIRONMENT.from_string(source)


def render(template: str, columns: Mapping[str, Any], limit: int) -> tuple[bool, str]:
    """Whether it can be rendered over `columns` in at most `limit` characters, and the text or why not."""
    try:
        text = _compiled(template).render(columns)
    except Exception as error:  # an expression in a template can raise anything
        return False, said_by(error)
    if len(text) > limit:
        return False, f"{len(text):,} characters, of which there may be {limit:,}"
    return True, text


def said_by(error: Exception) -> str:
    """What was wrong; Python says nothing of the memory that it does not get."""
    return f"{type(error).__name__}: {str(error) or 'it takes more than it may'}"


def undeclared(tree: nodes.Template) -> set[str]:
    """Names that a template does not set itself; `range` and the like, functions of Jinja's, where it calls none."""
    called = {one.node.name for one in tree.find_all(nodes.Call) if isinstance(one.node, nodes.Name)}
    set_here = {one.name for one in tree.find_all(nodes.Name) if one.ctx != "load"}
    named = {one.name for one in tree.find_all(nodes.Name)} & ENVIRONMENT.globals.keys()
    return meta.find_undeclared_variables(tree) | (named - called - set_here)


def parsed(template: str) -> nodes.Template:
    """What a template says.

    Raises:
        TemplateSyntaxError: it is none, or takes Jinja's own `self` for a column.
    """
    tree = ENVIRONMENT.parse(template)
    if own := next((one for one in tree.find_all(nodes.Name) if one.name == "self"), None):
        raise TemplateSyntaxError(f'self is a word of Jinja\'s: a column of that name is {ROW}["self"]', own.lineno)
    return tree


def variables(template: str) -> set[str]:
    """Names the template takes from outside; of `row["any name"]` the name, unless `row` is itself a column.

    Raises:
        TemplateSyntaxError: see `parsed`.
    """
    tree = parsed(template)
    names = undeclared(tree)
    items = [
        item for item in tree.find_all(nodes.Getitem) if isinstance(item.node, nodes.Name) and item.node.name == ROW
    ]
    columns = {
        item.arg.value for item in items if isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str)
    }
    uses = sum(name.name == ROW for name in tree.find_all(nodes.Name))
    return (names - {ROW}) | columns if ROW in names and uses == len(items) else names
