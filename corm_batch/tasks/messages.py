"""Messages of a chat, and which values are some. Knows nothing of who answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from corm_batch.data.cells import is_half_a_pair
from corm_batch.errors import DocumentError
from corm_batch.registry import shown

Role = Literal["system", "developer", "user", "assistant"]


class Message(NamedTuple):
    """One of a chat."""

    role: str
    content: str


def messages_of(value: Any, called: str) -> tuple[Message, ...]:
    """The messages that a value holds.

    Raises:
        DocumentError: it holds none, or what is no text, or what cannot be told a model.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise DocumentError(f"{called}: expected a list of messages, each with role and content, got {shown(value)}")
    return tuple(_message(one, f"{called}[{place}]") for place, one in enumerate(value))


def _message(value: Any, called: str) -> Message:
    if not isinstance(value, Mapping):
        raise DocumentError(f"{called}: expected an object with role and content, got {shown(value)}")
    given = {name: one for name, one in value.items() if one is not None}
    role = given.pop("role", None)
    if role not in get_args(Role):
        raise DocumentError(f"{called}.role: expected one of {', '.join(get_args(Role))}, got {shown(role)}")
    content = _content(given.pop("content", None), f"{called}.content")
    for name, one in given.items():
        if one not in ([], ""):
            raise DocumentError(f"{called}.{name}: cannot be honoured, a message is role and content; got {shown(one)}")
    return Message(role, content)


def _content(value: Any, called: str) -> str:
    """A text, or the parts of one, a line break between them."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "\n".join(_part(one, f"{called}[{place}]") for place, one in enumerate(value))
    if not isinstance(value, str):
        raise DocumentError(f"{called}: expected a text, or parts of type text, got {shown(value)}")
    if is_half_a_pair(value):
        raise DocumentError(f"{called}: holds invalid UTF-8 (half a surrogate pair)")
    return value


def _part(value: Any, called: str) -> str:
    if not isinstance(value, Mapping) or value.get("type") != "text":
        kind = value.get("type") if isinstance(value, Mapping) else value
        raise DocumentError(f"{called}: expected a part of type text, got {shown(kind)}")
    return _content(value.get("text") or "", f"{called}.text")
