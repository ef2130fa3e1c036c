"""Variables of the environment in a spec, written `${NAME}`: which fields may hold them, and what becomes of them.

A spec is written beside the results, with every value in it. So variables stand only where a spec says what something
is called or where it lies, and none that is called like a secret: credentials are read from the environment itself, by
the library behind each scheme. Knows nothing of what the fields mean.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corm_batch.errors import SpecError

PLACES = ("name", "model.name", "model.revision", "source.uri", "cluster.address", "output.uri")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NO_VARIABLE = re.compile(rf"(?!{_VARIABLE.pattern})\$\{{[^}}]*\}}?")
_SECRET = re.compile(r"key|secret|token|passw|credential|auth|private", re.IGNORECASE)


def with_variables(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a spec with the values of variables in place of them.

    Raises:
        SpecError: one is not set, is called like a secret, stands in another field, or is written in another way, as
            with a default; one line for each.
    """
    problems = [problem for path, text in _texts(data, "") for problem in _problems(path, text)]
    if problems:
        raise SpecError("\n".join(problems))
    return {name: _filled(section, name) for name, section in data.items()}


def _filled(value: Any, path: str) -> Any:
    if isinstance(value, str) and path in PLACES:
        return _VARIABLE.sub(lambda found: os.environ[found[1]], value)
    if isinstance(value, Mapping):
        return {name: _filled(one, f"{path}.{name}") for name, one in value.items()}
    return value


def _problems(path: str, text: str) -> Iterator[str]:
    for found in _VARIABLE.finditer(text):
        shown, name = found.group(), found[1]
        if path not in PLACES:
            yield f"{path}: {shown}: variables of the environment may stand in {', '.join(PLACES)}, and nowhere else"
        elif _SECRET.search(name):
            yield (
                f"{path}: {shown} is called like a secret, and a spec is written beside the results: credentials are "
                "read from the environment itself"
            )
        elif not os.environ.get(name):
            yield f"{path}: {shown}: the environment has no such variable, or an empty one"
    for found in _NO_VARIABLE.finditer(text if path in PLACES else ""):
        yield f"{path}: {found.group()}: expected ${{NAME}}, a name of letters, _ and, not first, digits"


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, and the path of its field."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _texts(one, f"{path}.{name}" if path else str(name))
    elif isinstance(value, Sequence):
        for place, one in enumerate(value):
            yield from _texts(one, f"{path}.{place}")
