"""Columns of a source that a job carries over to its results, as they are. Knows nothing of answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from corm_batch.data.kinds import unified
from corm_batch.data.schema import MEMORY_NAMES, RESULT_NAMES, column
from corm_batch.data.sources.base import Split


def carried_fields(names: Sequence[str], splits: Iterable[Split]) -> tuple[pa.Field, ...]:
    """The columns as the results have them, of a type that holds what all files have; text where nothing tells one."""
    kinds = list({id(split.kinds): split.kinds for split in splits}.values())
    found = []
    for name in names:
        kind = unified(of_file[name] for of_file in kinds if name in of_file) if kinds else None
        known = kind is not None and not pa.types.is_null(kind)
        found.append(column(name, kind if known else pa.string(), f"{name} of the source", detail="carried over"))
    return tuple(found)


def clash(names: Sequence[str], task_fields: Iterable[pa.Field]) -> str | None:
    """Why columns of these names cannot be carried over; None when they can."""
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        return f"{', '.join(twice)}: named twice"
    taken = {
        **dict.fromkeys(MEMORY_NAMES, "every memory table has"),
        **dict.fromkeys(RESULT_NAMES, "every results table has"),
        **dict.fromkeys((field.name for field in task_fields), "the results of this task have"),
    }
    lines = [f"{name}: {taken[name]} a column of that name" for name in names if name in taken]
    return f"{'; '.join(lines)}; rename it in the source" if lines else None
