"""FORMATS: what the keyword `format` of a JSON Schema is checked with.

jsonschema checks dates, addresses and UUIDs by itself; what it would need further packages for is written out here, as
RFC 3339 and RFC 3986 have it. A format that is neither there nor here says nothing, as the standard has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time

from jsonschema import Draft202012Validator, FormatChecker

_TIME = r"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
_LABEL = r"[A-Z0-9]([A-Z0-9-]{0,61}[A-Z0-9])?"
_EMAIL = r"[^\s@]+@[^\s@]+"
_PATTERNS = {
    "date-time": rf"\d{{4}}-\d\d-\d\d[T ]{_TIME}",
    "time": _TIME,
    "duration": r"P(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?",
    "uri": r"[A-Z][A-Z0-9+.-]*:([\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-F]{2})+",
    "hostname": rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*",
    "email": _EMAIL,
    "idn-email": _EMAIL,
}
_READ: dict[str, Callable[[str], object]] = {"date-time": datetime.fromisoformat, "time": time.fromisoformat}

FORMATS = FormatChecker(Draft202012Validator.FORMAT_CHECKER.checkers)


def _check(name: str, pattern: str) -> None:
    """Have a format checked by a pattern, and read where it is a date or time."""
    whole = re.compile(pattern, re.IGNORECASE | re.ASCII)
    read = _READ.get(name, str)

    @FORMATS.checks(name, raises=ValueError)
    def is_right(value: object) -> bool:
        if not isinstance(value, str):
            return True
        return whole.fullmatch(value) is not None and read(value.upper()) is not None


for _name, _pattern in _PATTERNS.items():
    _check(_name, _pattern)
