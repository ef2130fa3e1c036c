"""Settings: under which ones rows were answered, and which of them differ, inside an output or between two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corm_batch.report.units import counted

if TYPE_CHECKING:
    from corm_batch.output.committed import JobSettings

_KNOWN_TO_DIFFER = "output.uri"  # of two outputs
NONE = "-"


@dataclass(frozen=True)
class SettingDifference:
    """One setting by its path in the spec, and its values, each as JSON: one for each side that is compared."""

    path: str
    values: tuple[str, ...]


def values_of(jobs: Sequence[JobSettings], *path: str) -> list[tuple[str, int]]:
    """The values of one setting, given as its keys, and how many documents have each, most documents first."""
    counts: dict[str, int] = {}
    for job in jobs:
        value: Any = job.settings
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            counts[str(value)] = counts.get(str(value), 0) + job.documents
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def values_text(values: Sequence[tuple[str, int]]) -> str:
    """`64`, or of several values `64 (12 documents), 128 (1 document)`."""
    if len(values) == 1:
        return values[0][0]
    return ", ".join(f"{value} ({counted(documents, 'document')})" for value, documents in values) or NONE


def differences(*sides: Sequence[JobSettings]) -> tuple[SettingDifference, ...]:
    """Every setting that is not the same on all sides, by path; several values of one side with their documents."""
    found = [_values_by_path(side) for side in sides]
    paths = sorted({path for side in found for path in side} - {_KNOWN_TO_DIFFER})
    texts = {path: tuple(values_text(side.get(path, [])) for side in found) for path in paths}
    alike = {path: [{value for value, _ in side.get(path, [])} for side in found] for path in paths}
    return tuple(
        SettingDifference(path, texts[path])
        for path in paths
        if any(len(values) != 1 or values != alike[path][0] for values in alike[path])
    )


def _values_by_path(jobs: Sequence[JobSettings]) -> dict[str, list[tuple[str, int]]]:
    """Of every setting its values with their documents; a job without the setting says `-`."""
    flat = [(dict(_flat(job.settings, "")), job.documents) for job in jobs if job.settings]
    found: dict[str, dict[str, int]] = {path: {} for settings, _ in flat for path in settings}
    for path, counts in found.items():
        for settings, documents in flat:
            value = settings.get(path, NONE)
            counts[value] = counts.get(value, 0) + documents
    return {path: sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) for path, counts in found.items()}


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, value as JSON) of all that lies inside `value`."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
