"""merged(): several JSON Schemas of one value as one. Knows nothing of references."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_TIGHTER = dict.fromkeys(("minLength", "minimum", "exclusiveMinimum", "minItems"), max)
_TIGHTER |= dict.fromkeys(("maxLength", "maximum", "exclusiveMaximum", "maxItems"), min)


def merged(parts: Iterable[Any]) -> Any:
    """One schema for several that hold at once, as far as one can say it; a keyword said twice is the tighter one, or
    the first."""
    found: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, bool):
            if not part:
                return False
            continue
        for key, value in part.items():
            if key not in found:
                found[key] = value
            elif key == "properties":
                both = {name: merged([found[key][name], value[name]]) for name in found[key].keys() & value.keys()}
                found[key] = {**found[key], **value, **both}
            elif key == "required":
                found[key] = list(dict.fromkeys([*found[key], *value]))
            elif key in _TIGHTER:
                found[key] = _TIGHTER[key](found[key], value)
            elif key == "type":
                found[key] = _both(found[key], value)
            elif key == "enum":
                found[key] = [one for one in found[key] if one in value]
            elif key in ("anyOf", "oneOf"):
                found[key] = [merged([one, other]) for one in found[key] for other in value]
    return found


def _both(first: str | list[str], second: str | list[str]) -> list[str]:
    """Types that two keywords `type` allow; a number may be an integer."""
    one, other = ({kind} if isinstance(kind, str) else set(kind) for kind in (first, second))
    both = one & other
    if "number" not in both and all(kinds & {"integer", "number"} for kinds in (one, other)):
        both |= {"integer"}
    return sorted(both)
