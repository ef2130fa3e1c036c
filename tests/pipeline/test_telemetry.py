from collections import defaultdict

import pytest

from corm_batch.audit.verdict import Verdict
from corm_batch.audit.verification import Verification
from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.pipeline import telemetry as module
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.progress import Event, Progress
from corm_batch.pipeline.telemetry import JOB_TAG, METRICS, JobMetrics
from corm_batch.tasks.base import TaskResult


class Instrument:
    """Keeps what it is told, by its own tag; refuses what Ray's refuses."""

    def __init__(self, name, description, *rest):
        self.name, self.description, self.tags = name, description, rest[-1]
        self.values = defaultdict(list)

    def _keep(self, value, tags):
        assert tuple(tags) == self.tags
        assert all(isinstance(tag, str) for tag in tags.values())
        assert tags[JOB_TAG] == "night"
        self.values["".join(tag for name, tag in tags.items() if name != JOB_TAG)].append(value)

    def inc(self, value, tags):
        assert value > 0
        self._keep(value, tags)

    set = observe = _keep


@pytest.fixture
def recorded(monkeypatch):
    """A JobMetrics, and what reached Ray: {name: {own tag: values}}."""
    instruments = []
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(
            module.ray_metrics, kind, lambda *fields: instruments.append(Instrument(*fields)) or instruments[-1]
        )
    metrics = JobMetrics("night")
    return metrics, lambda: {
        one.name.removeprefix("corm_batch_"): dict(one.values) for one in instruments if one.values
    }


def answered(rows, doc_id="a"):
    memory = MemoryStats(
        prompt_tokens=10,
        output_tokens=2,
        kv_bytes_full=400,
        kv_bytes_peak=200,
        kept_ratio=0.25,
        queue_s=1.0,
        prefill_s=2.0,
        decode_s=3.0,
        elapsed_s=6.0,
    )
    return rows.answered(Document(doc_id, "text"), TaskResult("out"), memory)


def test_sums_wait_until_they_are_published(recorded, rows):
    metrics, found = recorded
    progress = Progress(total=7)
    for row in (answered(rows), answered(rows, "b"), rows.failed(Document("c", None), "DocumentError", "no")):
        progress = progress.with_row(row)
        metrics.record(Event("document", progress, row))
    assert found() == {}
    assert metrics.due
    metrics.publish(PoolLoad(waiting=5, suspects=1, in_flight=2, tokens=90, ready=1, loading=1))
    assert not metrics.due
    first = found()
    assert first["documents"] == {"ok": [2], "failed": [1]}
    assert first["failures"] == {"DocumentError": [1]}
    assert (first["prompt_tokens"], first["output_tokens"]) == ({"": [20]}, {"": [4]})
    assert (first["full_kv_bytes"], first["peak_kv_bytes"], first["kept_kv_bytes"]) == (
        {"": [800]},
        {"": [400]},
        {"": [200]},
    )
    assert (first["answer_s"], first["kept_ratio"]) == ({"": [6.0, 6.0]}, {"": [0.25, 0.25]})
    assert first["replicas"] == {"ready": [1], "loading": [1], "empty": [0]}
    assert (first["waiting_documents"], first["in_flight_tokens"]) == ({"": [5]}, {"": [90]})
    assert (first["uncommitted_documents"], first["source_documents"], first["running"]) == (
        {"": [3]},
        {"": [7]},
        {"": [1]},
    )
    assert "preemptions" not in first


def test_verified_documents_are_counted_by_verdict(recorded, rows):
    metrics, found = recorded
    alike, differing = Verdict(4, 4, None, 0.0, -1.0), Verdict(4, 3, 1, 2.0, -1.0)
    verifications = (
        Verification(),
        Verification.not_chosen(0.5, sampled=False),
        *[Verification.done(0.5, alike, -1.0, 0.25, sampled=False)] * 3,
        *[Verification.done(0.5, differing, -1.0, 0.25, sampled=False)] * 2,
        Verification.done(0.5, differing, -1.0, 0.25, sampled=False).answered_again(),
        Verification.done(0.5, differing, -1.0, 0.25, sampled=True),
        Verification.failed(0.5, "no room"),
    )
    for verification in verifications:
        row = answered(rows).verified(verification, MemoryStats(elapsed_s=1.0))
        metrics.record(Event("document", Progress(ok=1), row))
    metrics.publish(PoolLoad())
    told = {"alike": [3], "differing": [2], "rerun": [1], "scored": [1], "failed": [1]}
    assert found()["verified_documents"] == told
    assert found()["verify_s"] == {"": [1.75]}


def test_what_was_published_is_not_published_again(recorded, rows):
    metrics, found = recorded
    metrics.record(Event("document", Progress(ok=1), answered(rows)))
    metrics.publish(PoolLoad())
    metrics.committed(1, 0.5)
    metrics.publish(PoolLoad(), running=False)
    last = found()
    assert last["documents"] == {"ok": [1]}
    assert (last["committed_documents"], last["parts"], last["commit_s"]) == ({"": [1]}, {"": [1]}, {"": [0.5]})
    assert (last["uncommitted_documents"], last["running"]) == ({"": [1, 0]}, {"": [1, 0]})
    assert "source_documents" not in last


def test_skipped_documents_and_lost_replicas(recorded):
    metrics, found = recorded
    for kind, skipped in (("start", 0), ("skip", 40), ("loss", 40), ("skip", 100), ("tick", 100)):
        metrics.record(Event(kind, Progress(skipped=skipped)))
    metrics.publish(PoolLoad())
    assert found()["documents"] == {"skipped": [100]}
    assert found()["replicas_lost"] == {"": [1]}


def test_every_metric_has_a_unit_in_its_name_or_counts():
    units = {"s", "bytes", "tokens", "documents", "entries", "ratio"}
    counts = {"corm_batch_running", "corm_batch_failures", "corm_batch_parts", "corm_batch_replicas"}
    counts |= {"corm_batch_replicas_lost", "corm_batch_preemptions"}
    for metric in METRICS:
        assert metric.name.rpartition("_")[2] in units or metric.name in counts
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert metric.description
