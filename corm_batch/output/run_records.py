"""RunRecord: what runs wrote of themselves at their ends, and the pace at which those of one model went."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from corm_batch.data.filesystem import list_files, read_whole
from corm_batch.data.parts import folder, read_ahead
from corm_batch.errors import SourceError


@dataclass(frozen=True)
class RunRecord:
    """What one run that came to its end wrote of itself; a killed one left no record.

    Attributes:
        run_id: names its rows.
        documents: rows that it wrote, answered or failed.
        seconds: wall time from the first document to the end, start of the replicas included.
        failed_files: (URI, error) of files that it could not read, or not to their end.
        selection: what it was limited to, in words; empty for the whole source.
        gpu_s: GPU-seconds that its replicas held.
        price_per_gpu_hour: None where its spec said none.
        model_hash: says which weights answered; empty where an earlier version wrote the record.
        ok: documents that it answered.
        prompt_tokens, output_tokens: of these.
    """

    run_id: str
    documents: int
    seconds: float
    failed_files: tuple[tuple[str, str], ...] = ()
    selection: str = ""
    gpu_s: float = 0.0
    price_per_gpu_hour: float | None = None
    model_hash: str = ""
    ok: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class EarlierRuns:
    """What earlier runs of one model measured, all together, their starts included.

    Attributes:
        runs: how many answered anything.
        documents: that they answered.
        prompt_tokens, output_tokens: read and written for these.
        seconds: wall time.
    """

    runs: int
    documents: int
    prompt_tokens: int
    output_tokens: int
    seconds: float

    @classmethod
    def of_model(cls, records: Iterable[RunRecord], model_hash: str) -> Self | None:
        """Those of the runs of this model; None where there are none."""
        found = [run for run in records if run.model_hash == model_hash and run.prompt_tokens and run.seconds > 0]
        if not found:
            return None
        return cls(
            runs=len(found),
            documents=sum(run.ok for run in found),
            prompt_tokens=sum(run.prompt_tokens for run in found),
            output_tokens=sum(run.output_tokens for run in found),
            seconds=sum(run.seconds for run in found),
        )

    @property
    def tokens_per_s(self) -> float:
        """Tokens read and written by wall time."""
        return (self.prompt_tokens + self.output_tokens) / self.seconds

    @property
    def documents_per_h(self) -> float:
        """Documents answered by wall time."""
        return 3600 * self.documents / self.seconds

    def seconds_for(self, prompt_tokens: int) -> float:
        """How long as many tokens to read would take, with what is written for them, at the same pace."""
        return self.seconds / self.prompt_tokens * prompt_tokens


def read_records(output_uri: str) -> tuple[RunRecord, ...]:
    """Those of the runs of an output that came to their end, by their ids; none where no run has.

    Raises:
        SourceError: one cannot be read, or is none.
    """
    return tuple(read_ahead(_record, list_files(f"{folder(output_uri, '_job')}/runs/", (".json",))))


def _record(uri: str) -> RunRecord:
    """One run's record."""
    content = read_whole(uri)
    try:
        run = json.loads(content)
        return RunRecord(
            run_id=uri.rpartition("/")[2].removesuffix(".json"),
            documents=int(run["ok"]) + int(run["failed"]),
            seconds=float(run["seconds"]),
            failed_files=tuple((str(file["uri"]), str(file["error"])) for file in run.get("failed_files", ())),
            selection=str(run.get("selection", "")),
            gpu_s=float(run.get("gpu_s", 0.0)),
            model_hash=str(run.get("model_hash", "")),
            ok=int(run["ok"]),
            prompt_tokens=int(run.get("prompt_tokens", 0)),
            output_tokens=int(run.get("output_tokens", 0)),
            price_per_gpu_hour=None if (price := run.get("price_per_gpu_hour")) is None else float(price),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{uri}: no record of a run: {error}. Delete it: only its figures are lost") from error
