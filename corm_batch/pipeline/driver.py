"""run_job: the whole of a job, from its spec to its summary.

    source - ledger -> Intake -> ActorPool -> PartWriter -> output

Knows nothing of how a document is answered.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any

from corm_batch.audit.guard import Guard
from corm_batch.cluster.connection import cluster_address, connected
from corm_batch.cluster.health import cluster_answers
from corm_batch.data.document import Document
from corm_batch.data.filesystem import write_whole
from corm_batch.data.parts import folder, list_parts
from corm_batch.data.selection import Selection
from corm_batch.output import clock
from corm_batch.output.export import gather_rows
from corm_batch.output.lease import Lease
from corm_batch.output.ledger import Ledger
from corm_batch.output.rows import DocumentRow
from corm_batch.output.run_id import start_run
from corm_batch.output.settings import AnswerSettings
from corm_batch.output.writer import PartWriter
from corm_batch.pipeline.actor_pool import ActorPool
from corm_batch.pipeline.gpu_meter import GpuMeter
from corm_batch.pipeline.intake import Intake, Item, Outdated
from corm_batch.pipeline.model import check_model, model_loader, revision_hash
from corm_batch.pipeline.placement import Placement, pool_limits, replica_spawner
from corm_batch.pipeline.progress import Event, EventKind, JobSummary, OnEvent, Progress
from corm_batch.pipeline.row_builder import row_builder, versions
from corm_batch.pipeline.signals import StopSignals
from corm_batch.pipeline.stages import Stages, before_the_cluster
from corm_batch.pipeline.telemetry import JobMetrics
from corm_batch.pipeline.worker import LoadModel, WorkerSettings
from corm_batch.spec import JobSpec

_POLL_S = 0.2


def run_job(
    spec: JobSpec,
    *,
    retry_failed: bool = False,
    selection: Selection | None = None,
    on_event: OnEvent | None = None,
    on_document: Callable[[str], None] | None = None,
    load_model: LoadModel | None = None,
    patience_s: float = 60.0,
) -> JobSummary:
    """Answer every document of the source that no earlier run has done, and commit the rows.

    SIGTERM or SIGINT (in the main thread) or `verify.stop_above` ends it early: what is finished is committed, and the
    summary says so.

    Args:
        spec: the job.
        retry_failed: answer those again that failed in an earlier run.
        selection: look at no other documents; a later run without it goes on from what is there.
        on_event: called, in this thread, for everything that happens.
        on_document: called, in this thread, with the id of every document that is looked at, as they lie in the source.
        load_model: called in every replica; by default it loads the model of the spec.
        patience_s: seconds an engine may take to end a step once one of its documents is over its time limit.

    Raises:
        CormBatchError: the job itself failed; what was committed before is safe and a rerun goes on from there.
    """
    model = check_model(spec)
    splits = spec.splits()
    model_hash = revision_hash(spec.model)
    answer_settings = AnswerSettings.of(spec, model_hash, model.version, model.usual_storage(spec))
    spec = model.settled(spec)  # every replica stores what rows say
    # the cluster is left last: after SIGTERM there may be just three seconds to commit and to give the lease back
    with StopSignals() as stop, ExitStack() as cluster, Lease(spec.output.uri, lambda: not stop.requested) as lease:
        rows = row_builder(spec, model_hash, answer_settings, start_run(spec.output.uri), splits)
        settings = WorkerSettings.of(spec, rows, load_model or model_loader(spec), patience_s)
        ledger = Ledger.of(spec, answer_settings)
        told = partial(Intake, retry_failed=retry_failed, selection=selection, on_document=on_document)
        intake = told(spec.source, spec.task, splits, ledger, rows)
        writer = PartWriter(spec.output, rows, lease)
        run = _Run(spec, settings, intake, writer, lease, stop, on_event or (lambda event: None))
        run.tell(model.about, ledger)
        return run.main(cluster)


class _Run:
    """One run of a job, while the lease is held."""

    def __init__(
        self,
        spec: JobSpec,
        settings: WorkerSettings,
        intake: Intake,
        writer: PartWriter,
        lease: Lease,
        stop: StopSignals,
        on_event: OnEvent,
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._intake = intake
        self._writer = writer
        self._lease, self._stop = lease, stop
        self._on_event = on_event
        self._items: Iterator[Item] = iter(intake)
        self._read_all, self._stage = False, ""
        self._started = time.monotonic()
        self._progress = Progress(total=intake.total)
        self._metrics = JobMetrics(spec.name)
        self._meter = GpuMeter()
        self._guard = Guard(spec.verify)

    def tell(self, about_model: Sequence[str], ledger: Ledger) -> None:
        """Say what to know of the model, and what is at the output that does not stand, or is another job's."""
        for note in about_model:
            self._emit("notice", message=note)
        for damaged in ledger.damaged:
            self._emit("notice", message=f"{damaged}, as this one does")
        for rows in ledger.earlier():
            self._emit("notice", message=rows.text, details=asdict(rows))

    def main(self, cluster: ExitStack) -> JobSummary:
        """From the first document to the record of the run; the cluster is entered when there is something to do."""
        started_at = clock.now()
        self._write_job_file("spec.yaml", self._spec.to_yaml())
        places = self._spec.model.name, self._spec.source.place, self._spec.output.uri
        self._emit("start", message="model {}, reads {}, writes {}".format(*places))
        try:
            first = None
            while first is None and not self._read_all and not self._stop.requested:
                first = self._next_document(time.monotonic() + _POLL_S)
            if first is not None:
                self._items = chain([first], self._items)
                self._answer(cluster)
        finally:
            self._commit()
        while not self._stop.requested and self._writer.refill.commit():  # the next run finds what is not done
            pass
        for line in (*self._writer.refill.damaged, *filter(None, [self._writer.refill.text])):
            self._emit("notice", message=line)
        summary = self._summary()
        record = {
            **asdict(summary),
            "verification": summary.verification,
            "cost": summary.cost,
            "started_at": started_at.isoformat(),
            "ended_at": clock.now().isoformat(),
            "fingerprint": self._settings.rows.fingerprint,
            "model_hash": self._settings.rows.result_schema.metadata[b"corm_batch.model_hash"].decode(),
            "versions": versions(),
        }
        self._write_job_file(f"runs/{summary.run_id}.json", json.dumps(record, indent=1))
        self._intake.close()  # the rows in one file take memory of their own
        self._gather()
        return summary

    def _answer(self, cluster: ExitStack) -> None:
        """Read, answer and commit until every document has its row, a signal comes or the guard says no."""
        self._enter(before_the_cluster(self._spec))
        cluster.enter_context(connected(self._spec))
        self._stop.catch()  # Ray has put a handler of its own in place
        placement = Placement.of(self._spec)
        limits = pool_limits(self._spec, self._settings, placement.replicas)
        spawn = replica_spawner(placement, self._settings)
        self._meter = GpuMeter(placement.gpus)
        pool = ActorPool(spawn, self._settings.rows, limits, lambda reason: self._emit("loss", message=reason))
        stages = Stages(placement, shared=cluster_address(self._spec) is not None)
        cluster.callback(pool.close)
        cluster.callback(lambda: self._metrics.publish(pool.load, running=False))
        while not (self._stop.requested or self._guard.stops):
            if self._lease.lost is not None:  # what is answered from now on could not be committed
                raise self._lease.lost
            self._feed(pool)
            if pool.idle and self._read_all:
                self._meter.count(pool.load)
                pool.close()  # what is left to do may take minutes, and no GPU
                return
            rows = pool.poll(_POLL_S)
            self._meter.count(pool.load)
            self._enter(stages.now(pool.load, answered=bool(rows)))
            for row in rows:
                self._take(row)
            if self._writer.due:
                self._commit()
            if self._metrics.due:
                self._metrics.publish(pool.load)
                if not cluster_answers():
                    self._commit()  # Ray ends this process when that lasts
            if not rows:
                self._emit("tick")

    def _feed(self, pool: ActorPool) -> None:
        """Fill the pool's look-ahead, but not for longer than a poll may wait."""
        until = time.monotonic() + _POLL_S
        while pool.wants_more and not self._read_all and time.monotonic() < until:
            document = self._next_document(until)
            if document is not None:
                self._guard.read(document.doc_id)
                pool.add(document)

    def _next_document(self, until: float) -> Document | None:
        """The next document to answer; None at the end, at the time `until` or after a signal.

        What is done, and what can only fail, is dealt with on the way.
        """
        passed = Counter[str]()
        document = None
        while document is None and time.monotonic() < until and not self._stop.requested:
            item = next(self._items, None)
            if item is None:
                self._read_all = True
                break
            if isinstance(item, Document):
                document = item
            elif isinstance(item, DocumentRow):
                self._take(item)
            elif isinstance(item, Outdated):
                passed[item.state] += 1
                self._writer.refill.add(item.document, item.part)
            else:
                passed[item] += 1
        if passed:
            self._progress = self._progress.with_skipped(passed)
            self._emit("skip")
        return document

    def _take(self, row: DocumentRow) -> None:
        self._writer.add(row)
        if not row.gone:
            self._progress = self._progress.with_row(row)
            self._guard.found(self._progress.differing)
            self._emit("document", row=row)
        if self._writer.due:
            self._commit()

    def _commit(self) -> None:
        started = time.monotonic()
        count = self._writer.commit()
        if count:
            self._metrics.committed(count, time.monotonic() - started)
            self._emit("commit", message=str(count))

    def _gather(self) -> None:
        """Write all rows to one file, where that is wanted and they are not in it."""
        uri, target = self._spec.output.uri, self._spec.output.whole_file
        if target is None or not list_parts(folder(uri, "results")):
            return
        if self._stop.requested:
            self._emit("notice", message=f"{target} is as it was: corm-batch export {uri} {target} writes it")
        elif (count := gather_rows(uri, target)) is not None:
            self._emit("notice", message=f"{target} holds {count} rows")

    def _enter(self, stage: str) -> None:
        """Tell what is waited for from now on; empty: nothing any more."""
        before, self._stage = self._stage, stage
        if stage and stage != before:
            self._emit("stage", message=stage)

    def _emit(
        self,
        kind: EventKind,
        row: DocumentRow | None = None,
        message: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self._progress = self._timed()
        event = Event(kind, self._progress, row, message, details or {}, self._stage)
        self._metrics.record(event)
        self._on_event(event)

    def _timed(self) -> Progress:
        return replace(self._progress, seconds=time.monotonic() - self._started, gpu_s=self._meter.seconds)

    def _summary(self) -> JobSummary:
        return JobSummary(
            **asdict(self._timed()),
            run_id=self._settings.rows.run_id,
            output_uri=self._spec.output.uri,
            interrupted=self._stop.requested,
            stopped=self._guard.reason,
            selection=self._intake.selection,
            price_per_gpu_hour=self._spec.cluster.price_per_gpu_hour,
            why_left_out=self._intake.left_out,
            failed_files=self._intake.failed_files,
            empty_files=self._intake.empty_files,
        )

    def _write_job_file(self, name: str, content: str) -> None:
        write_whole(f"{self._spec.output.uri.rstrip('/')}/_job/{name}", content.encode())
