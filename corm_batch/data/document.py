"""Document: one row to answer. Knows nothing of where it came from or who answers it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from corm_batch.data.kinds import as_json, spelled


@dataclass(frozen=True)
class Document:
    """One row of a source.

    Attributes:
        doc_id: unique in the job.
        text: the document; None when the row holds no readable text, and `problem` says why.
        columns: every other column the task asked for (a question, say).
        carried: columns that the job carries over to its results, as the source has them; no answer depends on them.
        problem: why this row cannot be answered; None when it can.
        left_out: why the source does not count it among its documents; None when it does. It has no row anywhere.
        origin: where the row stands, for messages: file, row group and row.
        file, row: the file it is in, and which of the file's rows it is, 0 first; filled in by whoever reads splits,
            but where the source itself knows.
    """

    doc_id: str
    text: str | None
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    left_out: str | None = None
    origin: str = ""
    carried: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    row: int | None = None

    def at(self, file: str, row: int | None) -> Self:
        """The same, that row of that file, where it does not say itself in which it is."""
        return self if self.file is not None else replace(self, file=file, row=row)

    @cached_property
    def content_sha256(self) -> str:
        """Hash of everything of the row that can change its answer."""
        content = as_json([self.text, dict(self.columns)], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    @cached_property
    def carried_sha256(self) -> str | None:
        """Hash of the columns that are carried over, with their names; None where there are none."""
        if not self.carried:
            return None
        return hashlib.sha256((spelled(sorted(self.carried.items())) or "").encode()).hexdigest()


def digest(*parts: str) -> bytes:
    """16 bytes that stand for these texts where there are too many to hold."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
