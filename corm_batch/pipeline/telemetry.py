"""JobMetrics: the figures of a running job for Prometheus, through the metrics agent of the node its driver runs on.

    driver: record(event), committed(...) -> sums in memory -> publish(load), once a second -> Ray's agent -> Prometheus

Prometheus shows every name with `ray_` before it and a counter's with `_total` behind it. Names end in their unit: `_s`
seconds, `_bytes`, `_tokens`; what has none of these counts things or is a ratio. What is done here is done once a
document, never once a token. Knows nothing of how a document is answered.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.util import metrics as ray_metrics

from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.progress import Event

JOB_TAG = "job_name"
"""Tag of every metric: the spec's `name`. (`job` is what Prometheus calls its scrape jobs.)"""
_PUBLISH_S = 1.0
_RATIO_BOUNDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SECONDS_BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as Ray gets it.
        kind: a counter sums since the run began, a gauge is a state, a histogram counts documents or parts by `bounds`.
        description: what it counts, with its unit.
        tag: its own tag, beside `JOB_TAG`; "" for none.
        bounds: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tag: str = ""
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        return tuple(f"ray_{self.name}{suffix}" for suffix in suffixes[self.kind])


def _summed(column: str, description: str) -> Metric:
    """The sum of a column of the memory table over the answered documents."""
    return Metric(f"corm_batch_{column}", "counter", f"{description}, of answered documents")


RUNNING = Metric("corm_batch_running", "gauge", "1 while the driver works, 0 once it has ended in order")
DOCUMENTS = Metric("corm_batch_documents", "counter", "documents by status: ok, failed, skipped: done before", "status")
FAILURES = Metric("corm_batch_failures", "counter", "failed documents by type of error", "error_type")
COMMITTED = Metric("corm_batch_committed_documents", "counter", "documents whose part is committed")
PARTS = Metric("corm_batch_parts", "counter", "parts committed")
REPLICAS_LOST = Metric("corm_batch_replicas_lost", "counter", "replicas that died or hung, each is replaced")
KV_BYTES_KEPT = Metric(
    "corm_batch_kept_kv_bytes", "counter", "kv_bytes_full times the kept ratio, bytes, of answered documents"
)
VERIFIED = Metric(
    "corm_batch_verified_documents",
    "counter",
    "documents to verify by verdict: alike, differing, rerun: differing and answered again; scored: sampled; failed",
    "verdict",
)
VERIFY_S = _summed("verify_s", "seconds of passes that verified answers, beside prefill_s, shared out by tokens")
SUMMED = {
    "prompt_tokens": _summed("prompt_tokens", "tokens read"),
    "output_tokens": _summed("output_tokens", "tokens written"),
    "kv_bytes_full": _summed("full_kv_bytes", "bytes of keys and values that uncompressed caches would have held"),
    "kv_bytes_peak": _summed("peak_kv_bytes", "bytes of pages held at most"),
    "evicted_entries": _summed("evicted_entries", "cache entries that left"),
    "preemptions": _summed("preemptions", "times pages were moved to host memory to make room"),
    "queue_s": _summed("queue_s", "seconds waiting inside a replica"),
    "prefill_s": _summed("prefill_s", "seconds of passes that read prompts, shared out by tokens"),
    "decode_s": _summed("decode_s", "seconds of steps that write answers, shared out to the documents in them"),
}
"""Column of the memory table -> its sum."""
ANSWER_S = Metric(
    "corm_batch_answer_s",
    "histogram",
    "seconds of one answered document in a replica, from when it came to its answer",
    bounds=_SECONDS_BOUNDS,
)
KEPT_RATIO = Metric(
    "corm_batch_kept_ratio",
    "histogram",
    "entries stored at the end over those of an uncompressed cache, of one answered document",
    bounds=_RATIO_BOUNDS,
)
COMMIT_S = Metric("corm_batch_commit_s", "histogram", "seconds that committing one part took", bounds=_SECONDS_BOUNDS)
SOURCE_DOCUMENTS = Metric("corm_batch_source_documents", "gauge", "documents of the source, where it can say")
UNCOMMITTED = Metric("corm_batch_uncommitted_documents", "gauge", "documents done whose part is not committed yet")
WAITING = Metric("corm_batch_waiting_documents", "gauge", "documents read and waiting for a replica: the queue length")
SUSPECTS = Metric("corm_batch_suspect_documents", "gauge", "documents of a dead replica that wait to run alone")
IN_FLIGHT = Metric("corm_batch_in_flight_documents", "gauge", "documents in a replica")
TOKENS_IN_FLIGHT = Metric("corm_batch_in_flight_tokens", "gauge", "tokens in a replica, estimated from the text")
REPLICAS = Metric("corm_batch_replicas", "gauge", "places for replicas by state: ready, loading, empty", "state")

METRICS = (
    *(RUNNING, DOCUMENTS, FAILURES, COMMITTED, PARTS, REPLICAS_LOST, KV_BYTES_KEPT, *SUMMED.values()),
    *(VERIFIED, VERIFY_S, ANSWER_S, KEPT_RATIO, COMMIT_S),
    *(SOURCE_DOCUMENTS, UNCOMMITTED, WAITING, SUSPECTS, IN_FLIGHT, TOKENS_IN_FLIGHT, REPLICAS),
)
"""Every metric there is."""


class JobMetrics:
    """The metrics of one run; used from the driver's thread.

    Ray drops what it is told before the cluster is connected, so sums wait here until the first `publish`.
    """

    def __init__(self, job_name: str) -> None:
        """The metrics of the job `job_name`; no cluster is needed yet."""
        self._job_name = job_name
        self._instruments = {metric: _instrument(metric) for metric in METRICS}
        self._sums: dict[tuple[Metric, str], float] = defaultdict(float)
        self._observed: list[tuple[Metric, float]] = []
        self._source_documents: int | None = None
        self._skipped = 0
        self._uncommitted = 0
        self._next = 0.0

    def record(self, event: Event) -> None:
        """Take note of what happened."""
        self._source_documents = event.progress.total
        if event.kind == "document" and event.row is not None:
            self._count_row(event.row)
        elif event.kind == "skip":
            self._sums[DOCUMENTS, "skipped"] += event.progress.skipped - self._skipped
            self._skipped = event.progress.skipped
        elif event.kind == "loss":
            self._sums[REPLICAS_LOST, ""] += 1

    def committed(self, documents: int, seconds: float) -> None:
        """Take note of a part of so many documents whose commit took so long."""
        self._uncommitted -= documents
        self._sums[COMMITTED, ""] += documents
        self._sums[PARTS, ""] += 1
        self._observed.append((COMMIT_S, seconds))

    @property
    def due(self) -> bool:
        """Whether a second has passed since the last `publish`."""
        return time.monotonic() >= self._next

    def publish(self, load: PoolLoad, *, running: bool = True) -> None:
        """Hand everything to Ray, which must be connected; `load` is what the pool holds, not `running` is the end."""
        self._next = time.monotonic() + _PUBLISH_S
        for (metric, tag), value in self._sums.items():
            if value > 0:  # Ray refuses to add nothing
                self._instruments[metric].inc(value, self._tags(metric, tag))
        for metric, value in self._observed:
            self._instruments[metric].observe(value, self._tags(metric))
        self._sums.clear()
        self._observed.clear()
        if self._source_documents is not None:
            self._set(SOURCE_DOCUMENTS, self._source_documents)
        self._set(RUNNING, running)
        self._set(UNCOMMITTED, self._uncommitted)
        self._set(WAITING, load.waiting)
        self._set(SUSPECTS, load.suspects)
        self._set(IN_FLIGHT, load.in_flight)
        self._set(TOKENS_IN_FLIGHT, load.tokens)
        for state, count in (("ready", load.ready), ("loading", load.loading), ("empty", load.empty)):
            self._set(REPLICAS, count, state)

    def _count_row(self, row: DocumentRow) -> None:
        self._uncommitted += 1
        self._sums[DOCUMENTS, row.result["status"]] += 1
        if (verdict := _verdict(row.result)) is not None:
            self._sums[VERIFIED, verdict] += 1
        if not row.ok:
            self._sums[FAILURES, row.result["error_type"]] += 1
            return
        memory = row.memory
        for column, metric in SUMMED.items():
            self._sums[metric, ""] += memory[column]
        self._sums[VERIFY_S, ""] += memory.get("verify_s") or 0.0
        self._sums[KV_BYTES_KEPT, ""] += memory["kept_ratio"] * memory["kv_bytes_full"]
        self._observed.append((ANSWER_S, memory["elapsed_s"]))
        self._observed.append((KEPT_RATIO, memory["kept_ratio"]))

    def _set(self, metric: Metric, value: float, tag: str = "") -> None:
        self._instruments[metric].set(value, self._tags(metric, tag))

    def _tags(self, metric: Metric, tag: str = "") -> dict[str, str]:
        return {JOB_TAG: self._job_name, metric.tag: tag} if metric.tag else {JOB_TAG: self._job_name}


def _verdict(result: Mapping[str, Any]) -> str | None:
    """What verification says of a row; None where it was not to be verified."""
    if not result.get("verified"):
        return "failed" if result.get("verify_error") is not None else None
    if result["agreement"] is None:
        return "scored"
    if result["first_difference"] is None:
        return "alike"
    return "rerun" if result["rerun"] else "differing"


def _instrument(metric: Metric) -> Any:
    """Ray's side of a metric."""
    tags = (JOB_TAG, metric.tag) if metric.tag else (JOB_TAG,)
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.description, list(metric.bounds), tags)
    make = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return make(metric.name, metric.description, tags)
