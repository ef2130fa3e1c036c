"""ActorPool: which document goes to which replica, and what happens when a replica dies.

    add -> waiting (longest first) -> in flight -> row
                                        |  the actor dies
                                     suspects -> alone in flight -> row
                                                     |  the engine fails, or its process dies twice
                                                  failed row

Every document that was beside the cause of a death is answered in the end; only the cause gets a failed row. A process
that dies once beside a single document may have been killed from outside, and a node that goes takes its documents
along whatever they are: they wait again, as they did before. Knows nothing of files or models.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from corm_batch.data.document import Document
from corm_batch.errors import BrokenEngineError
from corm_batch.output.rows import DocumentRow, RowBuilder
from corm_batch.pipeline.replica import Flight, Loss, Replica, Spawn, cause_of, one_line

_MAX_BACKOFF_S = 60.0
_BYTES_PER_TOKEN = 4
_MAX_PROCESSES, _MAX_NODES = 2, 5  # that one document may cost: a document can be what takes them down


@dataclass(frozen=True)
class PoolLimits:
    """Bounds of one pool.

    Attributes:
        replicas: actors at most.
        max_documents: documents in flight in one actor.
        look_ahead: documents waiting beside those in flight.
        look_ahead_bytes: characters of text waiting.
        answer_tokens: tokens one answer takes at most; part of a document's size.
        token_budget: tokens in flight in one actor from which on it gets no more; None for a number of its memory's.
        hang_s: seconds after which an actor that still holds a document is taken for dead.
        max_deaths: actors lost in a row, without an answer in between, that are replaced.
        backoff_s: seconds before the first respawn; doubled with each death in a row.
        start_with: actors that have to be ready before the first document is given; later the pool goes on with any.
    """

    replicas: int
    max_documents: int
    answer_tokens: int
    hang_s: float
    max_deaths: int = 10
    token_budget: int | None = None
    look_ahead: int = 256
    look_ahead_bytes: int = 256 * 2**20
    backoff_s: float = 0.5
    start_with: int = 1


@dataclass(frozen=True)
class PoolLoad:
    """What a pool holds at one moment.

    Attributes:
        waiting, suspects, in_flight: documents.
        tokens: estimated, of the documents in flight.
        ready, loading, empty: places for replicas, by state.
        starting: of those that are loading, without a process yet.
    """

    waiting: int = 0
    suspects: int = 0
    in_flight: int = 0
    tokens: int = 0
    ready: int = 0
    loading: int = 0
    empty: int = 0
    starting: int = 0


class ActorPool:
    """Used from one thread: `add` while it `wants_more`, `poll` for rows until it is `idle`."""

    def __init__(
        self, spawn: Spawn, rows: RowBuilder, limits: PoolLimits, on_loss: Callable[[str], None] = lambda reason: None
    ) -> None:
        """A pool of actors made by `spawn`, an `EngineActor` handle each; `on_loss` hears why one was lost."""
        self._rows = rows
        self._limits = limits
        self._on_loss = on_loss
        self._replicas = [Replica(spawn) for _ in range(limits.replicas)]
        self._waiting: list[tuple[int, int, Document]] = []
        self._waiting_bytes = 0
        self._added = 0
        self._suspects: deque[Document] = deque()
        self._deaths_in_a_row = 0
        self._start_after = 0.0
        self._started = False
        self._lost: Counter[tuple[str, str]] = Counter()

    @property
    def wants_more(self) -> bool:
        """Whether the look-ahead has room."""
        return len(self._waiting) < self._limits.look_ahead and self._waiting_bytes < self._limits.look_ahead_bytes

    @property
    def idle(self) -> bool:
        """Whether every document has its row."""
        return not self._waiting and not self._suspects and not any(replica.num_documents for replica in self._replicas)

    @property
    def load(self) -> PoolLoad:
        """What it holds now."""
        loading = sum(replica.is_loading for replica in self._replicas)
        empty = sum(replica.is_empty for replica in self._replicas)
        return PoolLoad(
            waiting=len(self._waiting),
            suspects=len(self._suspects),
            in_flight=sum(replica.num_documents for replica in self._replicas),
            tokens=sum(replica.tokens for replica in self._replicas),
            ready=len(self._replicas) - loading - empty,
            loading=loading,
            empty=empty,
            starting=sum(replica.is_starting for replica in self._replicas),
        )

    def add(self, document: Document) -> None:
        """Take a document; `poll` returns its row some time."""
        size = len(document.text or "")
        heapq.heappush(self._waiting, (-size, self._added, document))
        self._added += 1
        self._waiting_bytes += size

    def poll(self, timeout_s: float) -> list[DocumentRow]:
        """Keep every replica busy, wait for something to happen, and return the rows that were finished.

        Raises:
            SpecError, ModelError: the model can never be loaded.
            BrokenEngineError: replicas die whatever they are given.
        """
        self._start_missing()
        if self._has_started():
            self._dispatch()
            for replica in self._replicas:
                replica.send()
        refs = [ref for replica in self._replicas for ref in replica.refs]
        if not refs:
            time.sleep(timeout_s if self._suspects or self._waiting else 0.0)
            return []
        ready, _ = ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [row for replica in self._replicas for row in self._collect(replica, set(ready))]

    def close(self) -> None:
        """End every actor."""
        for replica in self._replicas:
            replica.stop()

    def _start_missing(self) -> None:
        """Fill empty places, after the backoff and only while there is work for one more."""
        if time.monotonic() < self._start_after:
            return
        loading = sum(replica.is_loading for replica in self._replicas)
        wanted = len(self._waiting) + len(self._suspects) - loading
        for replica in [replica for replica in self._replicas if replica.is_empty][: max(0, wanted)]:
            replica.start()

    def _has_started(self) -> bool:
        """Whether as many replicas as the job waits for were ready once; no more than it has documents for."""
        wanted = min(self._limits.start_with, len(self._waiting) + len(self._suspects))
        self._started = self._started or (wanted > 0 and self.load.ready >= wanted)
        return self._started

    def _dispatch(self) -> None:
        """Suspects to idle replicas, each alone; the others, longest first, to whoever has the fewest tokens."""
        for replica in self._replicas:
            if self._suspects and replica.is_idle:
                document = self._suspects.popleft()
                replica.give(document, self._tokens(document), alone=True)
        while self._waiting:
            open_replicas = [replica for replica in self._replicas if self._has_room(replica)]
            if not open_replicas:
                return
            size, _, document = heapq.heappop(self._waiting)
            self._waiting_bytes += size
            target = min(open_replicas, key=lambda replica: replica.tokens)
            target.give(document, self._tokens(document), alone=False)

    def _has_room(self, replica: Replica) -> bool:
        """Whether a replica may take one more document beside what it has.

        By default until four pools' worth of uncompressed tokens are in flight: the cache is compressed, and the engine
        must never run dry.
        """
        if not replica.takes_more or replica.info is None or replica.num_documents >= self._limits.max_documents:
            return False
        return replica.tokens < (self._limits.token_budget or 4 * replica.info.pool_tokens)

    def _tokens(self, document: Document) -> int:
        return len(document.text or "") // _BYTES_PER_TOKEN + self._limits.answer_tokens

    def _collect(self, replica: Replica, ready: set[object]) -> list[DocumentRow]:
        """Rows of one replica; when it turns out to be lost, what follows from that."""
        try:
            rows = replica.collect(ready)
        except RayError as error:
            return self._bury(replica.lose(one_line(error), cause_of(error)))
        if rows:
            self._deaths_in_a_row = 0
        if time.monotonic() - replica.oldest > self._limits.hang_s:
            reason = f"it did not answer for {self._limits.hang_s:.0f} s"
            rows += self._bury(replica.lose(reason, "engine"))
        return rows

    def _bury(self, loss: Loss) -> list[DocumentRow]:
        """Rows of a dead actor: what it had answered, and the failure of a document that killed it alone.

        Raises:
            BrokenEngineError: too many deaths in a row.
        """
        self._on_loss(loss.reason)
        self._count_death(loss)
        return loss.rows + [row for flight in loss.flights for row in self._return(flight, loss)]

    def _count_death(self, loss: Loss) -> None:
        """Put the next start off, longer with every death in a row; nodes may go many at once and say nothing.

        Raises:
            BrokenEngineError: too many of them.
        """
        if loss.cause == "node":
            self._start_after = max(self._start_after, time.monotonic() + self._limits.backoff_s)
            return
        self._deaths_in_a_row = 1 if loss.rows else self._deaths_in_a_row + 1
        if self._deaths_in_a_row > self._limits.max_deaths:
            raise BrokenEngineError(
                f"the engine died {self._deaths_in_a_row} times without an answer in between (see "
                f"cluster.max_actor_restarts), last because: {loss.reason}"
            )
        backoff_s = self._limits.backoff_s * 2 ** (self._deaths_in_a_row - 1)
        self._start_after = time.monotonic() + min(backoff_s, _MAX_BACKOFF_S)

    def _return(self, flight: Flight, loss: Loss) -> list[DocumentRow]:
        """Let a document wait again that a dead actor held, or fail it for the death it must have caused."""
        document = flight.document
        if loss.cause == "node" or flight.alone:
            self._lost[document.doc_id, loss.cause] += 1
        lost = self._lost[document.doc_id, loss.cause]
        if loss.cause == "node" and lost < _MAX_NODES:
            if flight.alone:
                self._suspects.append(document)
            else:
                self.add(document)
            return []
        if not flight.alone or (loss.cause == "process" and lost < _MAX_PROCESSES):
            self._suspects.append(document)
            return []
        message = f"the engine died while it answered this document and no other: {loss.reason}"
        return [self._rows.failed(document, "EngineDied", message)]
