"""EngineActor: one model replica as a Ray actor; documents come in and rows go out by calls for as many as there are.

An exception in one document is that document's failed row. What goes wrong with the engine as a whole is raised, and
the pool replaces the actor.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.verification import Verification
from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import AnswerError, BrokenEngineError, DocumentError
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.engine_thread import EngineThread, SteppedEngine
from corm_batch.pipeline.verifier import Verifier
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Task
from corm_batch.text.tokenize import PromptTokenizer


class ReplicaEngine(SteppedEngine, Protocol):
    """An engine that tells its model's shape."""

    @property
    def shape(self) -> ModelShape:
        """Counts of the model."""


@dataclass(frozen=True)
class Model:
    """What a replica loads.

    Attributes:
        engine, tokenizer: ready to use, of the same model.
        pool_tokens: tokens the engine's page pool would hold without compression.
        pins_instruction: the engine's policy pins instructions, which requests have to name.
        least_room: tokens that a prompt has to leave free behind it, whatever its answer, for that policy.
    """

    engine: ReplicaEngine
    tokenizer: PromptTokenizer
    pool_tokens: int
    pins_instruction: bool = False
    least_room: int = 0


LoadModel = Callable[[], Model]


@dataclass(frozen=True)
class WorkerSettings:
    """What every replica of a job is given.

    Attributes:
        load_model: called once, in the replica.
        task: what to ask.
        rows: makes the rows of this run.
        document_timeout_s: seconds one document may take in a replica.
        patience_s: seconds the engine may take to end a step before it counts as hung, once a document is over time.
        verify: which answers to verify, and what then; None: none.
        fallback: answer a document again, without eviction, whose answer cannot be used.
    """

    load_model: LoadModel
    task: Task
    rows: RowBuilder
    document_timeout_s: float
    patience_s: float = 60.0
    verify: VerifyConfig | None = None
    fallback: bool = False

    @classmethod
    def of(cls, spec: JobSpec, rows: RowBuilder, load_model: LoadModel, patience_s: float) -> Self:
        """Those of a job."""
        timeout_s, fallback = spec.cluster.document_timeout_s, spec.fallback is not None
        return cls(load_model, spec.task, rows, timeout_s, patience_s, spec.verify, fallback)


@dataclass(frozen=True)
class ReplicaInfo:
    """A loaded replica.

    Attributes:
        host, pid: its process.
        pool_tokens: tokens its page pool would hold without compression.
    """

    host: str
    pid: int
    pool_tokens: int


class EngineActor:
    """One replica; the pool wraps it in `ray.remote`."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._actor = f"{socket.gethostname()}:{os.getpid()}"
        self._answering: set[asyncio.Task[None]] = set()  # the event loop itself holds no reference
        self._finished: asyncio.Queue[tuple[int, DocumentRow] | Exception] = asyncio.Queue()

    async def started(self) -> None:
        """Return: whoever waits for it hears when this process has its place in the cluster; the first call."""

    async def load(self) -> ReplicaInfo:
        """Load the model; the second call.

        Raises:
            ModelLoadError, UnsupportedModelError, SpecError: it can never be loaded; the message says why.
        """
        model = self._settings.load_model()
        self._tokenizer, self._least_room = model.tokenizer, model.least_room
        self._pins_instruction = model.pins_instruction
        self._engine = EngineThread(model.engine, asyncio.get_running_loop())
        shape = model.engine.shape
        self._max_model_len = model.engine.max_model_len
        verify, limit_s = self._settings.verify, self._settings.document_timeout_s
        self._verifier = Verifier(verify, self._engine, limit_s) if verify else None
        self._rows = self._settings.rows.with_constants(
            num_layers=shape.num_layers, num_kv_heads=shape.num_kv_heads, head_dim=shape.head_dim, actor=self._actor
        )
        gc.collect()
        gc.freeze()  # a model and what was imported stay: looking through a million objects now and then stalls a step
        return ReplicaInfo(host=socket.gethostname(), pid=os.getpid(), pool_tokens=model.pool_tokens)

    async def take(self, documents: Sequence[tuple[int, Document, bool]]) -> None:
        """Begin to answer documents, each by a number of the caller's, and `suspect` of `process`."""
        for number, document, suspect in documents:
            answering = asyncio.get_running_loop().create_task(self._finish(number, document, suspect))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def finished(self) -> list[tuple[int, DocumentRow]]:
        """Rows that no other call has returned, by their documents' numbers; waits for the first.

        Whoever waits for it hears, too, when this process ends. Several calls may wait.

        Raises:
            Exception: what `process` has raised.
        """
        found = [await self._finished.get()]
        while not self._finished.empty():
            found.append(self._finished.get_nowait())
        rows = [one for one in found if not isinstance(one, Exception)]
        errors = [one for one in found if isinstance(one, Exception)]
        if errors and not rows:
            raise errors[0]
        for error in errors:  # the next call raises it: what is answered is worth having
            self._finished.put_nowait(error)
        return rows

    async def _finish(self, number: int, document: Document, suspect: bool) -> None:
        try:
            self._finished.put_nowait((number, await self.process(document, suspect)))
        except Exception as error:
            self._finished.put_nowait(error)

    async def process(self, document: Document, suspect: bool = False) -> DocumentRow:
        """Answer one document, or say in its row why not; verify the answer where the job does.

        Args:
            document: which.
            suspect: it was with a replica that died.

        Raises:
            BrokenEngineError: the engine failed as a whole, or hangs.
        """
        asker = EngineAsker(
            document.doc_id,
            self._tokenizer,
            self._engine,
            self._max_model_len,
            pins_instruction=self._pins_instruction,
            least_room=self._least_room,
        )
        row, in_time = await self._answer(document, asker)
        if self._settings.fallback and in_time and row.unusable and asker.answered:
            row, asker = await self._fall_back(document, asker, row, suspect=suspect)
        if self._verifier is None or not asker.answered or not in_time:
            return row
        found = await self._verifier.verify(asker, suspect=suspect)
        if found.differs and self._settings.verify and self._settings.verify.on_difference == "rerun":
            row, found = await self._answer_again(document, asker, row, found)
        return row.verified(found, asker.spent())

    async def _fall_back(
        self, document: Document, asker: EngineAsker, row: DocumentRow, *, suspect: bool
    ) -> tuple[DocumentRow, EngineAsker]:
        """The row with an uncompressed cache's answer where that is worth more, and who was asked for it; else the one
        there is."""
        if suspect:  # a replica was lost with it, which may have been by doing this
            why = "not tried: a replica was lost while it had this document"
            return row.or_fallback(None, why, asker.spent()), asker
        again = asker.without_eviction()
        try:
            found, _ = await self._answer(document, again)
        except BrokenEngineError as error:  # what is asked next will notice
            return row.or_fallback(None, f"{type(error).__name__}: {error}", asker.spent()), asker
        chosen = row.or_fallback(found, "", again.spent())
        return chosen, again if chosen.result["fallback"] else asker

    async def _answer_again(
        self, document: Document, asker: EngineAsker, row: DocumentRow, found: Verification
    ) -> tuple[DocumentRow, Verification]:
        """The row with an uncompressed cache's answer; the one there is where that is worth less, and why."""
        try:
            again, _ = await self._answer(document, asker.without_eviction())
        except BrokenEngineError as error:  # what is asked next will notice
            return row, found.with_error(f"not answered again: {type(error).__name__}: {error}")
        if again.ok or (not row.ok and again.result.get("output") is not None):
            return again, found.answered_again()
        reason = f"{again.result['error_type']}: {again.result['error_message']}"
        return row, found.with_error(f"not answered again: {reason}")

    async def _answer(self, document: Document, asker: EngineAsker) -> tuple[DocumentRow, bool]:
        """One row, and whether it was made in time.

        Raises:
            BrokenEngineError: the engine failed as a whole, or hangs.
        """
        limit_s = self._settings.document_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                result = await self._settings.task.of_row(document).run(document, asker)
            return self._rows.answered(document, result, asker.spent(), asker.transcript), True
        except TimeoutError:
            await self._engine.check(self._settings.patience_s)
            late = f"not answered within its time limit of {limit_s:.0f} s"
            return self._rows.failed(document, DocumentError.__name__, late, _spent(asker), asker.transcript), False
        except AnswerError as unusable:
            return self._rows.unusable(document, unusable, _spent(asker), asker.transcript), True
        except Exception as caught:  # one bad document is one failed row, whatever is wrong with it
            self._engine.raise_if_broken()
            reason = type(caught).__name__, str(caught)
            return self._rows.failed(document, *reason, _spent(asker), asker.transcript), True


def _spent(asker: EngineAsker) -> MemoryStats | None:
    """The statistics of what was answered before the document failed."""
    return asker.spent() if asker.memory else None
