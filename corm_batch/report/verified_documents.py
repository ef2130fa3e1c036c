"""VerifiedDocument: single documents that an uncompressed cache would have answered otherwise, or may have.

Knows nothing of how they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class VerifiedDocument:
    """One document; the figures are columns of the results table, None where it could not be verified."""

    doc_id: str
    agreement: float | None
    first_difference: int | None
    largest_gap: float | None
    logprob_full: float | None
    logprob_kept: float | None
    rerun: bool | None
    verify_error: str | None

    @property
    def outcome(self) -> str:
        """What became of it."""
        if self.verify_error is not None:
            return self.verify_error
        return "answered again without eviction" if self.rerun else "flagged"


def worth_a_look(rows: pa.Table, limit: int) -> tuple[VerifiedDocument, ...]:
    """Documents that differ, the least agreement first, then those that could not be verified; at most `limit`."""
    names = [field.name for field in fields(VerifiedDocument)]
    rows = rows.filter(pc.or_(pc.is_valid(rows["first_difference"]), pc.is_valid(rows["verify_error"])))
    rows = rows.select(names).sort_by([("agreement", "ascending"), ("doc_id", "ascending")])
    return tuple(VerifiedDocument(**row) for row in rows.slice(0, limit).to_pylist())
