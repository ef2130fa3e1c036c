"""Replica: one place in the pool and the actor that fills it now. Knows nothing of which document goes where."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from corm_batch.data.document import Document
from corm_batch.errors import CormBatchError, ModelLoadError
from corm_batch.output.rows import DocumentRow
from corm_batch.pipeline.worker import ReplicaInfo

Spawn = Callable[[], Any]
Cause = Literal["node", "process", "engine"]
_CALLS_AHEAD = 16  # that wait for rows: so often they come to this process while it does something else
_SENT_AT_ONCE = 1 << 20  # characters


@dataclass(frozen=True)
class Flight:
    """A document given to an actor.

    Attributes:
        tokens: estimated size.
        alone: no other document was or will be in the actor beside it.
        since: monotonic seconds when it was given.
    """

    document: Document
    tokens: int
    alone: bool
    since: float


@dataclass(frozen=True)
class Loss:
    """What an actor left behind.

    Attributes:
        rows: documents it had answered.
        flights: documents it had not.
        reason: why it is gone, in one line.
        cause: "node" when its whole node is gone or out of reach, "process" when its process ended and nobody knows
            why, "engine" when the engine failed or hung.
    """

    rows: list[DocumentRow]
    flights: list[Flight]
    reason: str
    cause: Cause


class Replica:
    """States: empty (no actor) -> loading, at first without a process -> ready -> empty when lost.

    Attributes:
        info: of the actor, once it is ready.
        tokens: estimated, of the documents in flight.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._forget()

    def _forget(self) -> None:
        self._actor: Any = None
        self._starting: Any = None
        self._loading: Any = None
        self._calls: list[Any] = []  # that return rows
        self._sent: list[Any] = []  # that brought documents
        self._to_send: list[tuple[int, Document, bool]] = []
        self._to_send_size = 0
        self._given = 0
        self._flights: dict[int, Flight] = {}  # each by its number, the oldest first
        self.info: ReplicaInfo | None = None
        self.tokens = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no actor."""
        return self._actor is None

    @property
    def is_loading(self) -> bool:
        """Whether there is an actor that is not ready yet."""
        return self._loading is not None

    @property
    def is_starting(self) -> bool:
        """Whether its actor waits for a place in the cluster and for its process."""
        return self._starting is not None

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and has nothing to do."""
        return self.info is not None and not self._flights

    @property
    def takes_more(self) -> bool:
        """Whether it is loaded and holds no document that has to be alone."""
        return self.info is not None and not (self._flights and self._oldest.alone)

    @property
    def num_documents(self) -> int:
        """Documents in flight."""
        return len(self._flights)

    @property
    def oldest(self) -> float:
        """Monotonic seconds when the document longest in flight was given; infinity without one."""
        return self._oldest.since if self._flights else float("inf")

    @property
    def _oldest(self) -> Flight:
        return next(iter(self._flights.values()))

    @property
    def refs(self) -> list[Any]:
        """What to wait for."""
        return [ref for ref in (self._starting, self._loading, *self._calls, *self._sent) if ref is not None]

    def start(self) -> None:
        """Create the actor and let it load."""
        self._actor = self._spawn()
        self._starting = self._actor.started.remote()
        self._loading = self._actor.load.remote()
        self._calls = [self._actor.finished.remote() for _ in range(_CALLS_AHEAD)]

    def give(self, document: Document, tokens: int, *, alone: bool) -> None:
        """Hand over one document, with the next `send` at the latest."""
        self._flights[self._given] = Flight(document, tokens, alone, time.monotonic())
        self._to_send.append((self._given, document, alone))  # alone: it may be what its last replica died of
        self._given += 1
        self.tokens += tokens
        self._to_send_size += len(document.text or "")
        if self._to_send_size > _SENT_AT_ONCE:
            self.send()

    def send(self) -> None:
        """Send what was given: a call a document would take longer than many a document."""
        if self._to_send:
            self._sent.append(self._actor.take.remote(self._to_send))
            self._to_send, self._to_send_size = [], 0

    def collect(self, ready: set[Any]) -> list[DocumentRow]:
        """Take note of the load, and the rows of the documents, that are finished among `ready`.

        Raises:
            RayError: the actor is gone or broken, and every document it held is still in flight; call `lose`.
            SpecError, ModelError: the model can never be loaded.
        """
        if self._starting in ready:
            self._starting = None  # when it died instead, its other calls tell
        if self._loading in ready:
            self.info = _loaded(self._loading)
            self._loading = None
        ray.get([ref for ref in self._sent if ref in ready])
        self._sent = [ref for ref in self._sent if ref not in ready]
        calls = [ref for ref in self._calls if ref in ready]
        found: list[list[tuple[int, DocumentRow]]] = ray.get(calls)
        self._calls = [ref for ref in self._calls if ref not in ready]
        self._calls += [self._actor.finished.remote() for _ in calls]
        return [self._landed(number, row) for rows in found for number, row in rows]

    def _landed(self, number: int, row: DocumentRow) -> DocumentRow:
        self.tokens -= self._flights.pop(number).tokens
        return row

    def lose(self, reason: str, cause: Cause) -> Loss:
        """End what is left of the actor; what it had finished is kept, the rest comes back."""
        rows = []
        for ref in self._calls:
            with suppress(RayError):  # also that it is not finished
                rows += [self._landed(number, row) for number, row in ray.get(ref, timeout=0)]
        flights = list(self._flights.values())
        self.stop()
        return Loss(rows, flights, reason, cause)

    def stop(self) -> None:
        """End the actor at once."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._forget()


def _loaded(ref: Any) -> ReplicaInfo:
    """The answer of `EngineActor.load`.

    Raises:
        CormBatchError: what the replica says is wrong; trying again cannot help.
        RayError: the actor died.
    """
    try:
        info: ReplicaInfo = ray.get(ref)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, CormBatchError):
            raise cause from None
        raise ModelLoadError(f"model: the engine cannot be loaded: {type(cause).__name__}: {cause}") from error
    return info


def cause_of(error: BaseException) -> Cause:
    """What ended a replica."""
    if isinstance(error, RayTaskError):
        return "engine"
    if isinstance(error, ActorUnavailableError):  # nobody is left on its node who could say that the process died
        return "node"
    return "node" if "its node has died" in str(error) else "process"  # Ray says so in words alone


def one_line(error: BaseException) -> str:
    """Why a replica was lost, short enough for a row."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    # Ray indents the ids of the actor; what is left says how the process ended
    lines = [line for line in str(cause).splitlines() if line.strip() and not line[0].isspace()]
    return " ".join(lines)[:400] or type(cause).__name__
