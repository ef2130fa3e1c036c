"""JSON in an answer, whatever stands around it: code fences, words, drafts. Knows nothing of schemas."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from corm_batch.errors import CutOffError

_OPENING = re.compile(r"[{\[]")
_BEGUN = re.compile(r'\{\s*"|\[\s*[\["{]')  # what shows that an object or list was meant
_NAME = re.compile(r'\s*(")')
_COLON = re.compile(r"\s*:\s*")
_COMMA = re.compile(r"\s*,")
_MOST_REPAIRS = 200
_FIRST_INEXACT = 2.0**53  # from here on a float may stand for several integers
_MOST_DIGITS = 400  # of an integer: Python refuses to read many more


@dataclass(frozen=True)
class Contradiction:
    """What an object says under one name, where that is several things: no value of JSON, so that nothing takes it."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return " and ".join(json.dumps(value, default=str) for value in self.values)


def json_values(answer: str) -> list[Any]:
    """The objects and lists in `answer`, in order; of nested ones the outermost.

    Raw line breaks inside texts and commas before a closing bracket are read. What has two values under one name has a
    `Contradiction` there; a number that is too large to be one is the text it was written as.

    Raises:
        CutOffError: the last of them has no end.
    """
    values, position = [], 0
    while opening := _OPENING.search(answer, position):
        start = opening.start()
        try:
            value, position, answer = _decode(answer, start)
            values.append(value)
        except json.JSONDecodeError as error:
            ended = error.pos >= len(answer.rstrip()) or error.msg.startswith("Unterminated string")
            if ended and _BEGUN.match(answer, start):
                raise CutOffError("the answer ends inside its JSON", begun=answer[start:]) from error
            position = start + 1
        except ValueError:  # no constant of JSON
            position = start + 1
        except RecursionError:
            break
    return values


def whole_members(begun: str) -> dict[str, Any]:
    """Of an object that has no end, the members that have one."""
    members = list[tuple[str, Any]]()
    position = 1
    while begun.startswith("{") and (found := _NAME.match(begun, position)):
        try:
            name, behind = _DECODER.raw_decode(begun, found.start(1))
            value, position = _DECODER.raw_decode(begun, _COLON.match(begun, behind).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError, AttributeError):  # it ends here
            break
        if not (comma := _COMMA.match(begun, position)):  # a number may go on
            break
        members.append((name, value))
        position = comma.end()
    return _object(members)


def _decode(text: str, start: int) -> tuple[Any, int, str]:
    """The value that begins at `start`, where it ends, and the text without its trailing commas."""
    for _ in range(_MOST_REPAIRS):
        try:
            return *_DECODER.raw_decode(text, start), text
        except json.JSONDecodeError as error:
            comma = _trailing_comma(text, error.pos)
            if comma is None:
                raise
            text = f"{text[:comma]} {text[comma + 1 :]}"
    return *_DECODER.raw_decode(text, start), text


def _trailing_comma(text: str, position: int) -> int | None:
    """Where the comma stands that made the decoder fail at `position`, if one before a closing bracket did."""
    comma = position if text[position : position + 1] == "," else len(text[:position].rstrip()) - 1
    if comma < 0 or text[comma] != ",":
        return None
    return comma if re.compile(r",\s*[}\]]").match(text, comma) else None


def _integer(digits: str) -> int | str:
    """The integer; its digits when there are too many to be one."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _number(text: str) -> float | int | str:
    """A number with decimals or an exponent; a whole one that no float is, as an integer."""
    value = float(text)
    if math.isinf(value):
        return text
    exact = Decimal(text)
    return int(exact) if abs(value) >= _FIRST_INEXACT and exact != value and exact == int(exact) else value


def _object(members: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these members."""
    said: dict[str, list[Any]] = {}
    for name, value in members:
        said.setdefault(name, []).append(value)
    return {
        name: values[0] if all(_are_same(value, values[0]) for value in values) else Contradiction(tuple(values))
        for name, values in said.items()
    }


def _are_same(one: Any, other: Any) -> bool:
    """Whether two values of JSON are one: 1 and 1.0 are, while true is no 1, as it is to Python."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_are_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_are_same(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _no_constant(name: str) -> None:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(name)


_DECODER = json.JSONDecoder(
    strict=False, parse_int=_integer, parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_object
)
