"""Progress and Event: what a running job tells, and JobSummary: what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from corm_batch.audit.statement import Audited, statement
from corm_batch.output.marks import Marks
from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.intake import FailedFile

EventKind = Literal["notice", "start", "stage", "document", "skip", "loss", "commit", "tick"]


@dataclass(frozen=True)
class Progress:
    """Counts of one run so far.

    Attributes:
        total: documents of the source; None when it cannot say without reading all of them.
        ok, failed: documents with a row of this run.
        skipped: documents that an earlier run has done.
        skipped_failed: of these, those it could not answer.
        left_out: rows of the source that are none of its documents, as its filter says.
        prompt_tokens, output_tokens: of the answered documents.
        kv_bytes_full: what uncompressed caches would have held at the end, summed over documents.
        kv_bytes_peak: what they held at most, summed over documents.
        kept_bytes: `kv_bytes_full` times each document's kept ratio, summed.
        cut_off, truncated, looping, with_failed_fields, fallback, audited, verified, differing, rerun, unverified,
            scored: documents with a row of this run that has this mark (`corm_batch.output.marks`).
        seconds: since the run began.
        gpu_s: GPU-seconds that its replicas have held.
    """

    total: int | None = None
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    skipped_failed: int = 0
    left_out: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    kv_bytes_full: int = 0
    kv_bytes_peak: int = 0
    kept_bytes: float = 0.0
    cut_off: int = 0
    truncated: int = 0
    looping: int = 0
    with_failed_fields: int = 0
    fallback: int = 0
    audited: int = 0
    verified: int = 0
    differing: int = 0
    rerun: int = 0
    unverified: int = 0
    scored: int = 0
    seconds: float = 0.0
    gpu_s: float = 0.0

    @property
    def documents(self) -> int:
        """Documents with a row of this run."""
        return self.ok + self.failed

    @property
    def skipped_ok(self) -> int:
        """Documents that an earlier run has answered."""
        return self.skipped - self.skipped_failed

    @property
    def left(self) -> int | None:
        """Documents without a row; None when the source cannot say how many it has."""
        return None if self.total is None else max(0, self.total - self.left_out - self.skipped - self.documents)

    @property
    def kept_ratio(self) -> float:
        """Entries stored at the end over entries of uncompressed caches; 1 while nothing is answered."""
        return self.kept_bytes / self.kv_bytes_full if self.kv_bytes_full else 1.0

    @property
    def bytes_saved(self) -> int:
        """Full minus peak, summed over documents."""
        return self.kv_bytes_full - self.kv_bytes_peak

    @property
    def verification(self) -> str:
        """What is known of this run's answers, in one line; empty where none was to be verified."""
        return statement([Audited(**{one.name: getattr(self, one.name) for one in fields(Audited)})])

    def with_skipped(self, found: Mapping[str, int]) -> Progress:
        """The counts with so many more documents done before, `ok` or `failed`, and rows `left out`."""
        ok, failed, left_out = (found.get(state, 0) for state in ("ok", "failed", "left out"))
        return replace(
            self,
            skipped=self.skipped + ok + failed,
            skipped_failed=self.skipped_failed + failed,
            left_out=self.left_out + left_out,
        )

    def with_row(self, row: DocumentRow) -> Progress:
        """The counts with one more document."""
        marks = {name: getattr(self, name) + mark for name, mark in asdict(Marks.of(row.result)).items()}
        if not row.ok:
            return replace(self, failed=self.failed + 1, **marks)
        memory = row.memory
        return replace(
            self,
            ok=self.ok + 1,
            **marks,
            prompt_tokens=self.prompt_tokens + memory["prompt_tokens"],
            output_tokens=self.output_tokens + memory["output_tokens"],
            kv_bytes_full=self.kv_bytes_full + memory["kv_bytes_full"],
            kv_bytes_peak=self.kv_bytes_peak + memory["kv_bytes_peak"],
            kept_bytes=self.kept_bytes + memory["kept_ratio"] * memory["kv_bytes_full"],
        )


@dataclass(frozen=True)
class JobSummary(Progress):
    """Counts of a run that is over.

    Attributes:
        run_id: names its parts and the column of its rows.
        output_uri: where they are.
        interrupted: it was told to stop (SIGTERM, SIGINT) before every document was done; the rest is for the next run.
        stopped: why it has ended by itself before every document was done (verify.stop_above); empty if it has not.
        selection: what it was limited to, in words; empty for the whole source.
        price_per_gpu_hour: of the spec; None where it says none.
        why_left_out: why rows are none of the source's documents, and how many, the most first.
        failed_files: files that cannot be read, or not to their end; what could be read of them was.
        empty_files: URIs of files without rows, which were passed over.
    """

    run_id: str = ""
    output_uri: str = ""
    interrupted: bool = False
    stopped: str = ""
    selection: str = ""
    price_per_gpu_hour: float | None = None
    why_left_out: tuple[tuple[str, int], ...] = ()
    failed_files: tuple[FailedFile, ...] = ()
    empty_files: tuple[str, ...] = ()

    @property
    def cost(self) -> float | None:
        """What its GPU time costs; None where no price is known."""
        return None if self.price_per_gpu_hour is None else self.gpu_s / 3600 * self.price_per_gpu_hour


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: "notice" of what a run finds in its model and at its output, before anything else; "start" when documents
            begin to be read, "stage" when what the run waits for before its first answer has changed, "document" for
            each row, "skip" when done documents were passed over, "loss" when a replica died, "commit" when a part is
            safe, "tick" now and then while nothing happens.
        progress: the counts after it.
        row: the document's, of kind "document".
        message: of kind "notice": all of it; of kind "start": the places, relative paths in full; of kind "loss": why;
            of kind "commit": how many documents; of kind "stage": what is waited for.
        details: of kind "notice" about rows: how many, and what was set otherwise, as JSON.
        stage: what the run waits for, of every kind; empty before that and from the first answer on.
    """

    kind: EventKind
    progress: Progress
    row: DocumentRow | None = None
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""


OnEvent = Callable[[Event], None]
