"""Room: how the characters of an answer are shared out among the texts and lists that a schema sets no end to.

Estimates, for forms (schema_grammar.py): what is counted too small is an answer that is cut off, which is seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

from corm_batch.tasks.json_schema import resolved

_NUMBER, _WORD, _FORMAT = 20, 6, 28  # characters of a number, of true, false and null, of a text with a format
SHORT = 80  # characters a text may have by its schema to count in full, whatever is shared out
_LEAST = 16
_DEEPEST = 6


class Room(NamedTuple):
    """What a value takes.

    Attributes:
        fixed: characters, about, whatever is said.
        num_open: texts and lists in it that need not end.
    """

    fixed: int
    num_open: int

    @classmethod
    def of(cls, part: Any, root: Mapping[str, Any], depth: int = _DEEPEST) -> Room:
        """Of a schema's values, within `root`; of one that stands inside itself, not deeper than `depth`."""
        if not isinstance(part, dict):
            return cls(2, int(part))
        if not depth:
            return cls(_WORD, 0)
        part = resolved(part, root)
        if "enum" in part or "const" in part:
            values = part.get("enum", [part.get("const")])
            return cls(max((len(json.dumps(value)) for value in values), default=0), 0)
        parts = [one for key in ("anyOf", "oneOf", "allOf") for one in part.get(key, ())]
        if parts:
            return cls._largest(cls.of(one, root, depth - 1) for one in parts)
        if "properties" in part:
            inside = {name: cls.of(one, root, depth - 1) for name, one in part["properties"].items()}
            fixed = 2 + sum(len(name) + 6 + one.fixed for name, one in inside.items())
            return cls(fixed, sum(one.num_open for one in inside.values()))
        kinds = part.get("type", "object")
        return cls._largest(cls._of_type(kind, part) for kind in ([kinds] if isinstance(kinds, str) else kinds))

    @classmethod
    def _of_type(cls, kind: str, part: Mapping[str, Any]) -> Room:
        if kind in ("integer", "number"):
            return cls(_NUMBER, 0)
        if kind in ("boolean", "null"):
            return cls(_WORD, 0)
        if kind == "string" and "format" in part:
            return cls(_FORMAT, 0)
        if kind == "string" and part.get("maxLength", SHORT + 1) <= SHORT:
            return cls(part["maxLength"] + 2, 0)
        return cls(2, 1)

    @classmethod
    def _largest(cls, rooms: Any) -> Room:
        found = list(rooms)
        return cls(max((one.fixed for one in found), default=0), max((one.num_open for one in found), default=0))

    def share(self, num_chars: int) -> int:
        """Characters of each that need not end, of so many in all."""
        return max(_LEAST, (num_chars - self.fixed * 3 // 2) // max(1, self.num_open))

    def items(self, num_chars: int) -> int:
        """How many such values a list may have that need not end, where it has so many characters.

        Values that have an end are counted at half of their length at most; of the others there are the fewer the
        longer they may be.
        """
        return max(3, num_chars // (self.fixed // 2 + 2) if not self.num_open else isqrt(num_chars // (self.fixed + 6)))
