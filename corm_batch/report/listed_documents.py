"""DocumentFigures: what single documents took, for lists of a bounded number of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class DocumentFigures:
    """One document; figures are None where it has none, as a failed one.

    Attributes:
        doc_id: its id.
        prompt_tokens, output_tokens: tokens read and written.
        kv_bytes_full, kv_bytes_peak: bytes of an uncompressed cache, and the most held.
        kept_ratio: entries stored at the end over those of an uncompressed cache.
        queue_s, prefill_s, decode_s: seconds waiting for room, reading, and answering.
        answer: its beginning; None when answers were not read.
        error_type, error_message: why it failed.
    """

    doc_id: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    kv_bytes_full: int | None = None
    kv_bytes_peak: int | None = None
    kept_ratio: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    answer: str | None = None
    error_type: str | None = None
    error_message: str | None = None

    @property
    def saved_ratio(self) -> float | None:
        """Share of the uncompressed bytes that was never needed at once; negative when pages cost more."""
        if not self.kv_bytes_full or self.kv_bytes_peak is None:
            return None
        return 1 - self.kv_bytes_peak / self.kv_bytes_full

    @property
    def busy_s(self) -> float | None:
        """Seconds a replica worked on it."""
        return None if self.prefill_s is None or self.decode_s is None else self.prefill_s + self.decode_s


def document_figures(rows: pa.Table) -> tuple[DocumentFigures, ...]:
    """One for each row, in the same order."""
    names = [field.name for field in fields(DocumentFigures) if field.name in rows.column_names]
    return tuple(DocumentFigures(**row) for row in rows.select(names).to_pylist())


def measured(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows have memory figures, as booleans."""
    bytes_known = pc.and_(pc.greater(rows["kv_bytes_full"], 0), pc.is_valid(rows["kv_bytes_peak"]))
    return pc.fill_null(pc.and_(bytes_known, pc.is_finite(rows["kept_ratio"])), False)


def by_length(rows: pa.Table) -> pa.Table:
    """Answered rows with memory figures, shortest prompt first, documents of one length by id."""
    rows = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), measured(rows)))
    return rows.sort_by([("prompt_tokens", "ascending"), ("doc_id", "ascending")])


def evenly(rows: pa.Table, limit: int) -> pa.Table:
    """At most `limit` rows, spread evenly over the table, its first and last among them."""
    if rows.num_rows <= limit:
        return rows
    return rows.take(pa.array(np.linspace(0, rows.num_rows - 1, limit).round().astype(np.int64)))
