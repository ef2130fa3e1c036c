"""What a template does whatever its row holds: rendered over values that nobody knows, until it has to know one.

What fails before that fails for every document. Knows nothing of processes or limits of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn

from jinja2 import nodes, pass_context

from corm_batch.data.template import ENVIRONMENT, said_by, undeclared

_ASKED_BY_JINJA = ("unsafe_callable", "alters_data", "jinja_pass_arg")


class _NeedsRow(BaseException):
    """From here on it depends on the row; not to be caught by a filter."""


def _needs_row(*_: Any, **__: Any) -> NoReturn:
    raise _NeedsRow


def _unknown(*_: Any, **__: Any) -> UnknownValue:
    return UnknownValue()


class UnknownValue:
    """A value of a row; what is worked out of it is unknown too, and what it decides nobody can say."""

    def __getattr__(self, name: str) -> UnknownValue:
        """Whatever there may be."""
        if name.startswith("_") or name in _ASKED_BY_JINJA:
            raise AttributeError(name)
        return UnknownValue()


_MAKE_ANOTHER = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"),
    *("call", "getitem", "neg", "pos", "abs", "invert"),
)
_TELL = (
    *("bool", "str", "repr", "format", "bytes", "hash", "len", "length_hint", "iter", "next", "contains", "reversed"),
    *("int", "float", "complex", "index", "round", "trunc", "floor", "ceil", "eq", "ne", "lt", "le", "gt", "ge"),
)
for _names, _method in ((_MAKE_ANOTHER, _unknown), (_TELL, _needs_row)):
    for _name in _names:
        setattr(UnknownValue, f"__{_name}__", _method)
for _name in _MAKE_ANOTHER:
    setattr(UnknownValue, f"__r{_name}__", _unknown)  # Python asks for those of two operands only


def _over_unknown(function: Any, found: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test, with `found` in place of what it makes of an unknown value."""

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        known = not any(isinstance(value, UnknownValue) for value in (*args, *options.values()))
        return function(*args, **options) if known else found()

    return called


def _finalize(found: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """Prints a value as `ENVIRONMENT` does, `found` in place of an unknown one."""
    plain: Any = ENVIRONMENT.finalize
    return pass_context(lambda context, value: found() if isinstance(value, UnknownValue) else plain(context, value))


_PRINTING = ENVIRONMENT.overlay(finalize=_finalize(str))
_PRINTING.filters = {name: _over_unknown(one, _unknown) for name, one in ENVIRONMENT.filters.items()}
_PRINTING.tests = {name: _over_unknown(one, _needs_row) for name, one in ENVIRONMENT.tests.items()}
_HANDING_ON = (nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock, nodes.Macro)
"""What takes printed text as a value, which then is one of the row."""


def problem_with_every_row(template: str, limit: int) -> str | None:
    """Why the template can be rendered over no row in `limit` characters; None when it may be over some."""
    tree = ENVIRONMENT.parse(template)
    environment = _PRINTING
    if any(tree.find_all(_HANDING_ON)):
        environment = _PRINTING.overlay(finalize=_finalize(_needs_row))
    columns = {name: UnknownValue() for name in undeclared(tree)}
    try:
        text = environment.from_string(template).render(columns)
    except _NeedsRow:
        return None
    except Exception as error:  # an expression in a template can raise anything
        about_a_value = UnknownValue.__name__ in str(error)  # which a value of a row may well do
        return None if about_a_value else said_by(error)
    return None if len(text) <= limit else f"{len(text):,} characters, of which there may be {limit:,}"


def said_whatever(template: str, columns: Mapping[str, Any]) -> str | None:
    """What a template says whatever stands in place of the unknown values among `columns`; None where that depends on
    them, or it cannot be rendered."""
    try:
        return _PRINTING.from_string(template).render(columns)
    except (_NeedsRow, Exception):
        return None
