"""What a cell of a source says as an id or as a text. Knows nothing of files or columns."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral
from typing import Any
from uuid import UUID

import pyarrow as pa

from corm_batch.data.columns import is_list, is_text
from corm_batch.data.filesystem import reason
from corm_batch.data.kinds import Moment, NoText, as_json, spelled

_MESSAGES = ("role", "content"), ("from", "value")  # as chat models take them, and as ShareGPT has them
_BESIDE = "tool_calls", "function_call", "refusal"  # what a message may say instead of a content, or beside it
_PARTS = "text", "input_text", "output_text"


def usable_id(value: Any) -> str | None:
    """`value` as a document id; None when it cannot be one."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:  # beyond, whole numbers share a float
        value = int(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(int(value)) if value == value.to_integral_value() else str(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))  # of numpy too
    if isinstance(value, UUID):
        return str(value)
    return value if isinstance(value, str) and value and not is_half_a_pair(value) else None


def as_text(value: Any) -> Any:
    """`value`; bytes and a `Moment` as the text they are, or the exception when they are none."""
    if isinstance(value, Moment):
        text = str(spelled(value))
        return text if ":" in text and "<" not in text else ValueError(f"{value.units} as {value.kind}")
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        return error


def text_of(value: Any, separator: str) -> str:
    """`value` as a document: a text, a list of texts, or the messages of a chat, each as `role: content`, calls of
    tools in JSON behind it.

    Args:
        value: the cell, or the exception that reading it raised.
        separator: stands between the entries of a list; entries that are null are passed over.

    Raises:
        ValueError: it cannot be asked about, and why.
    """
    text = _said(list(value) if type(value) is tuple else value, separator)
    if not text.strip():
        raise ValueError("is empty")
    if is_half_a_pair(text):
        raise ValueError(f"holds invalid UTF-8 ({_not_utf8(text)})")
    return text


def _not_utf8(text: str) -> str:
    """What of a text with half a surrogate pair comes first: a byte that was read so is of this range."""
    half = ord(next(char for char in text if is_half_a_pair(char)))
    return f"byte {half - 0xDC00:#04x}, as of another encoding" if 0xDC80 <= half <= 0xDCFF else "half a surrogate pair"


def _said(value: Any, separator: str) -> str:
    value = as_text(value)
    if value is None:
        raise ValueError("is null")
    if isinstance(value, UnicodeError):
        raise ValueError(f"holds invalid UTF-8 ({value})")
    if isinstance(value, Exception):
        raise ValueError(f"cannot be read ({reason(value)})")
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        entries = [_said(entry, separator) for entry in value if entry is not None]
        return separator.join(entries) if any(map(str.strip, entries)) else ""  # a separator alone says nothing
    if isinstance(value, Mapping):
        return _message(value, separator)
    raise ValueError(f"holds no text but {type(value).__name__}")


def _message(value: Mapping[str, Any], separator: str) -> str:
    """What a message says, or a part of one."""
    beside = [value[name] for name in _BESIDE if value.get(name)]
    for role, content in _MESSAGES:
        if isinstance(value.get(role), str) and (content in value or beside):
            said = "" if value.get(content) is None else _said(value[content], separator)
            others = [one if isinstance(one, str) else as_json(one, ensure_ascii=False) for one in beside]
            return f"{value[role]}: {separator.join(filter(None, [said, *others]))}"
    if value.get("type") in _PARTS and isinstance(value.get("text"), str):
        return str(value["text"])
    kind = f"a part of type {value['type']!r}" if isinstance(value.get("type"), str) else "an object"
    raise ValueError(f"holds no text but {kind} (with {', '.join(map(repr, value)) or 'nothing'})")


def is_no_utf8(value: Any) -> bool:
    """Whether there is text in a value that UTF-8 cannot hold."""
    if isinstance(value, str):
        return is_half_a_pair(value)
    if isinstance(value, Mapping):
        return any(map(is_no_utf8, value)) or any(map(is_no_utf8, value.values()))
    return any(map(is_no_utf8, value)) if isinstance(value, list | tuple) else isinstance(value, NoText)


def readable(value: Any) -> Any:
    """A value with what UTF-8 cannot hold, and Python no time for, replaced in all text in it but names."""
    if isinstance(value, str):
        return value if value.isascii() else spelled(value)
    if isinstance(value, NoText):
        return spelled(value)
    if isinstance(value, dict | Mapping):
        return {name: readable(one) for name, one in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Moment):
        return type(value)(spelled(one) if isinstance(one, Moment) else readable(one) for one in value)
    return value


def is_half_a_pair(text: str) -> bool:
    """Whether `text` holds half a surrogate pair, which JSON can spell but no UTF-8 can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def may_be_text(kind: pa.DataType) -> bool:
    """Whether cells of this type may be what `text_of` takes, or are all null."""
    if is_list(kind):
        return may_be_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(all(kind.get_field_index(name) >= 0 for name in names) for names in (*_MESSAGES, ("type", "text")))
    return is_plain_text(kind)


def is_plain_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text, bytes that may be text, or all null."""
    if pa.types.is_dictionary(kind):
        return is_plain_text(kind.value_type)
    checks = is_text, pa.types.is_null, pa.types.is_binary, pa.types.is_large_binary
    return any(check(kind) for check in checks) or kind == pa.binary_view()


def may_be_ids(kind: pa.DataType) -> bool:
    """Whether cells of this type are text or UUIDs, or numbers, of which whole ones are ids."""
    checks = (is_plain_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(check(kind) for check in checks) or kind == pa.uuid()
