"""What a benchmark says, as it is written to JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from corm_batch.bench.ceilings import Ceilings
from corm_batch.bench.workload import EngineName, Workload
from corm_batch.engine.config import WeightForm
from corm_batch.propagation.base import Propagation

Prefill = Literal["exact", "streaming"]
NOTE = (
    "Weights and prompts are random: their attention is not sparse, so corm caps every head at max_kept entries, which "
    "stands for the kept ratio of a trained model; propagation by cumulative attention leaves next to nothing behind. "
    "generate is one batch of its largest size, on the assumption that the next would take as long."
)


@dataclass(frozen=True)
class Measured:
    """What one engine did with one workload.

    Attributes:
        documents: answered.
        wall_s: seconds, from the first document added to the last answer.
        prefill_tokens_per_s: prompt tokens a second when nothing but the first token is asked for.
        decode_ms_per_step: median of the steps with a full batch; None when the engine took no such step.
        documents_in_flight: the most there were at once.
        kv_bytes_per_document: bytes of cache a document held at most, mean.
        kept_ratio: entries stored at the end over those of an uncompressed cache, mean.
    """

    documents: int
    wall_s: float
    prefill_tokens_per_s: float
    decode_ms_per_step: float | None
    documents_in_flight: int
    kv_bytes_per_document: int
    kept_ratio: float


class Figures(BaseModel):
    """`Measured`, and what follows from it.

    Attributes:
        prompt_tokens_per_s, output_tokens_per_s: over the whole run.
        peak_memory_bytes: the most the device's allocator gave out, weights and the whole page pool included; None on a
            CPU.
        limit_documents_per_hour: see `corm_batch.bench.limit`.
        limit_share: documents an hour over it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int
    wall_s: float
    documents_per_hour: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    prefill_tokens_per_s: float
    decode_ms_per_step: float | None
    documents_in_flight: int
    kv_bytes_per_document: int
    kept_ratio: float
    peak_memory_bytes: int | None
    limit_documents_per_hour: float
    limit_share: float


class JobFigures(BaseModel):
    """A workload through a whole job (`corm_batch.pipeline.bench_job`).

    Attributes:
        replicas: that answered side by side.
        documents: of all of them.
        wall_s: seconds from the first file listed to the last one written, after the files it reads were made.
        start_s, load_s, first_answer_s, steady_s: of these, until a replica had its process (Ray included), until it
            had its weights and was given documents, until the first answer was there, and until the last was.
        documents_per_hour: from when the weights were there.
        steady_documents_per_hour: from the first answer on, without those that came together with it; None when all
            did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replicas: int
    documents: int
    wall_s: float
    start_s: float
    load_s: float
    first_answer_s: float
    steady_s: float
    documents_per_hour: float | None
    steady_documents_per_hour: float | None


class Row(BaseModel):
    """One engine and one workload, with weights and entries in one form: its figures, or why there are none.

    Attributes:
        propagation: name of the one by which tokens leave later layers, with its defaults; None for none.
        job: of a whole job around this engine, where that was asked for.
        reason: why `figures`, or `job`, are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workload: str
    engine: EngineName
    prefill: Prefill
    weights: WeightForm = "stored"
    storage: str = "model"
    propagation: str | None = None
    figures: Figures | None = None
    job: JobFigures | None = None
    reason: str | None = None

    def of_engine(self, documents_per_hour: float | None) -> float | None:
        """What share a job's rate is of that of as many engines alone; None when one of them is missing."""
        if documents_per_hour is None or self.job is None or self.figures is None:
            return None
        return documents_per_hour / (self.job.replicas * self.figures.documents_per_hour)

    @property
    def rule(self) -> Propagation | None:
        """The propagation itself."""
        return None if self.propagation is None else Propagation.from_spec({"name": self.propagation})

    @property
    def name(self) -> str:
        """`corm`, or `corm, fp8 weights, fp8 entries, attention` with either in that form and a propagation."""
        weights = None if self.weights == "stored" else f"{self.weights} weights"
        entries = None if self.storage == "model" else f"{self.storage} entries"
        return ", ".join(filter(None, (self.engine, weights, entries, self.propagation)))


class BenchResult(BaseModel):
    """One run of the benchmark.

    Attributes:
        schema_version: of this JSON.
        command: what was typed.
        date: its start, ISO 8601 in UTC.
        versions: of Python and of the libraries that matter.
        device: its name.
        note: what to know before reading the figures.
        workloads, ceilings: by name of the workload.
        rows: in the order in which they were measured.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal["corm-batch bench 1"] = "corm-batch bench 1"
    command: str
    date: str
    versions: dict[str, str | None]
    device: str
    note: str = NOTE
    workloads: dict[str, Workload] = {}
    ceilings: dict[str, Ceilings] = {}
    rows: list[Row] = []

    def corm_over(self, row: Row) -> float | None:
        """How many times the documents an hour of `row` corm answers, workload, forms and propagation the same.

        None when one is missing.
        """
        forms = row.weights, row.storage, row.propagation
        rows = (other for other in self.rows if (other.workload, other.engine) == (row.workload, "corm"))
        corm = next((other for other in rows if (other.weights, other.storage, other.propagation) == forms), None)
        if corm is None or corm.figures is None or row.figures is None:
            return None
        return corm.figures.documents_per_hour / row.figures.documents_per_hour
