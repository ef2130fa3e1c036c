"""Rules over fields, as expressions of Jinja's sandbox.

An expression that cannot be evaluated because a field is null says nothing. Knows nothing of answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from corm_batch.data.expressions import checked_names, holds, names_in


def check_rule(rule: str, names: Iterable[str]) -> None:
    """Refuse what is no expression over fields of these names.

    Raises:
        ValueError: why.
    """
    known, named = list(names), checked_names(rule)
    if unknown := sorted(named - set(known)):
        raise ValueError(f"{rule!r} names {', '.join(unknown)}; the fields are {', '.join(known)}")
    if not named:
        raise ValueError(f"{rule!r} names no field; the fields are {', '.join(known)}")


def broken(rule: str, values: Mapping[str, Any]) -> str:
    """What is wrong with the fields that a checked rule names, with their values; "" where it holds or says nothing.

    Args:
        rule: the expression.
        values: of every field; None for null.
    """
    named = {name: values.get(name) for name in sorted(names_in(rule))}
    try:
        if holds(rule, values):
            return ""
        why = "breaks"
    except ValueError as error:
        if None in named.values():
            return ""
        why = f"cannot be held against ({error})"
    said = ", ".join(f"{name} = {repr(value)[:100]}" for name, value in named.items())
    return f"{said} {why} validate: {rule}"
