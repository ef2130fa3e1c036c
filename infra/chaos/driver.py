"""A driver of the chaos series: runs the job once it is told to, and keeps a journal of who began and got what.

    python -m infra.chaos.driver SPEC JOURNAL STEP_S STALE_S

The environment variable CHAOS_CLOCK_S says by how many seconds the wall clock of this driver is ahead.
Reads one word from standard input: "go" waits for the output while another driver holds it, "rival" gives up at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from corm_batch.engine.request import Request
from corm_batch.engine.scripted import ScriptedEngine
from corm_batch.errors import LeaseError
from corm_batch.output import clock, lease
from corm_batch.pipeline.driver import run_job
from corm_batch.pipeline.progress import Event, JobSummary
from corm_batch.pipeline.worker import Model
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

MODEL = str(Path(__file__).parents[2] / "jobs/quickstart/model")
COMPLETE, INTERRUPTED, NO_LEASE = 0, 3, 4
PATIENCE_S = 2.0
CLOCK_VARIABLE = "CHAOS_CLOCK_S"


def note(journal: str, event: str, **fields: object) -> None:
    """Append one line to the journal: one write, so that lines of several processes do not mix."""
    line = json.dumps({"at": time.time(), "event": event, **fields}) + "\n"
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class JournalEngine(ScriptedEngine):
    """Notes every document that it begins."""

    def __init__(self, decode: Callable[..., str], step_s: float, journal: str, driver: int) -> None:
        super().__init__(decode, step_s=step_s)
        self._note = partial(note, journal, "begin", driver=driver, actor=os.getpid())

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._note(document=request.id.rpartition("#")[0])
        super().add(request)


def load(step_s: float, journal: str, driver: int) -> Model:
    """What every replica loads."""
    tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role="document")
    return Model(JournalEngine(tokenizer.decode, step_s, journal, driver), tokenizer, pool_tokens=4096)


def attempt(spec: JobSpec, journal: str, step_s: float) -> JobSummary:
    """One run of the job."""
    me = os.getpid()

    def watch(event: Event) -> None:
        if event.row is not None:
            note(journal, "row", driver=me, document=event.row.result["doc_id"], run=event.row.result["run_id"])
        elif event.kind in ("start", "loss", "commit"):
            note(journal, event.kind, driver=me, message=event.message)

    return run_job(spec, on_event=watch, load_model=partial(load, step_s, journal, me), patience_s=PATIENCE_S)


def main() -> int:
    """The exit code: COMPLETE, INTERRUPTED, or NO_LEASE when the output is, or has become, another driver's."""
    path, journal, step_s, stale_s = sys.argv[1:]
    shift = timedelta(seconds=float(os.environ.get(CLOCK_VARIABLE, 0.0)))
    now = clock.now
    clock.now = lambda: now() + shift
    lease.STALE_S, lease.RENEW_S = float(stale_s), float(stale_s) / 6
    spec = JobSpec.load(path)
    word = sys.stdin.readline().strip()
    while word:
        try:
            summary = attempt(spec, journal, float(step_s))
        except LeaseError as error:
            if word == "rival" or "the lease was lost" in str(error):
                note(journal, "no lease", driver=os.getpid(), message=str(error))
                return NO_LEASE
            time.sleep(0.2)
        else:
            return INTERRUPTED if summary.interrupted else COMPLETE
    return COMPLETE


if __name__ == "__main__":
    sys.exit(main())
