"""Marks: what somebody who reads a row's answer ought to know of it, besides whether it is ok."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corm_batch.text.repetition import LOOPING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Marks:
    """Of one row of the results, answered or failed.

    Attributes:
        cut_off: an answer it rests on ended at task.max_new_tokens.
        truncated: only a part of the document was read.
        looping: its answer repeats itself over and over.
        with_failed_fields: fields of it are null because their answer could not be used.
    """

    cut_off: bool
    truncated: bool
    looping: bool
    with_failed_fields: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Marks:
        """Read them off a row, of which any column may be missing."""
        return cls(
            cut_off=row.get("finish_reason") == "length",
            truncated=bool(row.get("truncated")),
            looping=(row.get("repetition") or 0.0) >= LOOPING,
            with_failed_fields=bool(row.get("failed_fields")),
        )

    @staticmethod
    def count(rows: pa.Table) -> dict[str, int]:
        """How many rows have each mark, by its name; of `failed_fields` the rows hold how many there are."""
        import pyarrow.compute as pc  # a command line that reads no rows starts without it

        found = {
            "cut_off": pc.equal(rows["finish_reason"], "length"),
            "truncated": rows["truncated"],
            "looping": pc.greater_equal(rows["repetition"], LOOPING),
            "with_failed_fields": pc.greater(rows["failed_fields"], 0),
        }
        return {name: pc.sum(mark).as_py() or 0 for name, mark in found.items()}
