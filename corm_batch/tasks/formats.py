"""FORMATS: what the keyword `format` of a JSON Schema is checked with.

jsonschema checks dates, addresses and UUIDs by itself; what it would need further packages for is written out here, as
RFC 3339, RFC 3986 and, with letters of any alphabet, RFC 5321 have it. A scheme alone (`https:`, `https://`), which RFC
3986 calls a URI with an empty path, is none here: it names nothing. A format that is neither there nor here says
nothing, as the standard has it.
"""

from __future__ import annotations

import re

from jsonschema import Draft202012Validator, FormatChecker

_HOUR, _MINUTE = r"([01]\d|2[0-3])", r"[0-5]\d"
_TIME = rf"{_HOUR}:{_MINUTE}:({_MINUTE}|60)(\.\d+)?(Z|[+-]{_HOUR}:{_MINUTE})"
_LABEL = r"[A-Z0-9]([A-Z0-9-]{0,61}[A-Z0-9])?"
_ATOMS = r'[^\x00-\x1f\s@"(),.:;<>\[\]\\]+(\.[^\x00-\x1f\s@"(),.:;<>\[\]\\]+)*'
_EMAIL = rf'({_ATOMS}|"[^"\n]+")@({_ATOMS}|\[[\w.:]+\])'
_PATTERNS = {
    "date-time": rf"(?P<date>\d{{4}}-\d\d-\d\d)[T ]{_TIME}",
    "time": _TIME,
    "duration": r"P(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?",
    "uri": r"[A-Z][A-Z0-9+.-]*:(?=/*[^/?#])([\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-F]{2})+",
    "hostname": rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*",
    "email": _EMAIL,
    "idn-email": _EMAIL,
}

NARROWED = {"uri": "^[^:]+:/*[^/?#]"}
"""A pattern that a format's texts match here, which is no part of the format where a grammar is made of it."""

FORMATS = FormatChecker(Draft202012Validator.FORMAT_CHECKER.checkers)


def _check(name: str, pattern: str) -> None:
    """Have a format checked by a pattern, and the date in it by jsonschema."""
    whole = re.compile(pattern, re.IGNORECASE | re.ASCII)

    @FORMATS.checks(name)
    def is_right(value: object) -> bool:
        if not isinstance(value, str):
            return True
        found = whole.fullmatch(value)
        return found is not None and FORMATS.conforms(found.groupdict().get("date"), "date")


for _name, _pattern in _PATTERNS.items():
    _check(_name, _pattern)
