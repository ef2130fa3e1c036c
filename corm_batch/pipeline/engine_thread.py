"""EngineThread: one engine, stepped on a thread of its own, awaited from an event loop.

The engine is not thread safe, so everything that touches it happens on that thread, between steps. Knows nothing of
text, documents or Ray.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import BrokenEngineError


class SteppedEngine(Protocol):
    """What the pipeline needs of an engine."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def has_work(self) -> bool:
        """Whether a request is unfinished."""

    def add(self, request: Request) -> None:
        """Queue a request."""

    def open_reading(self, reading: SharedReading) -> None:
        """Queue a document to be read for several requests."""

    def step(self) -> list[Completion]:
        """Do some work; the requests that finished."""

    def cancel(self, request_id: str) -> None:
        """Give a request up; a later step returns it."""


class EngineThread:
    """Runs `engine` until the process ends; all methods are called from the event loop `loop` runs in."""

    def __init__(self, engine: SteppedEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, asyncio.Future[Completion]] = {}
        self._broken: BrokenEngineError | None = None
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    async def answer(self, request: Request) -> Completion:
        """The completion of one request; cancelling the awaiting coroutine cancels it in the engine.

        Raises:
            BrokenEngineError: the engine failed as a whole, with its reason.
        """
        self.raise_if_broken()
        future: asyncio.Future[Completion] = self._loop.create_future()
        self._waiting[request.id] = future
        self._inbox.put(lambda: self._engine.add(request))
        try:
            return await future
        except asyncio.CancelledError:
            self._inbox.put(lambda: self._engine.cancel(request.id))
            raise
        finally:
            self._waiting.pop(request.id, None)

    def read(self, reading: SharedReading) -> None:
        """Have a document read for what is asked over it from now on."""
        self._inbox.put(lambda: self._engine.open_reading(reading))

    def close(self, reading: SharedReading) -> None:
        """Nothing more is asked over one."""
        self._inbox.put(reading.close)

    async def check(self, patience_s: float) -> None:
        """Return once the engine has come to the end of its step.

        Raises:
            BrokenEngineError: it failed, or did not get there in `patience_s` seconds.
        """
        self.raise_if_broken()
        passed = asyncio.Event()
        self._inbox.put(lambda: self._in_loop(passed.set))
        try:
            await asyncio.wait_for(passed.wait(), patience_s)
        except TimeoutError:
            raise BrokenEngineError(f"the engine did not finish a step within {patience_s:.0f} s") from None

    def raise_if_broken(self) -> None:
        """Do nothing while the engine works.

        Raises:
            BrokenEngineError: it failed as a whole, with its reason.
        """
        if self._broken is not None:
            raise self._broken

    def _in_loop(self, call: Callable[[], None]) -> None:
        if not self._loop.is_closed():  # nobody waits any more
            self._loop.call_soon_threadsafe(call)

    def _run(self) -> None:
        """The thread: take what came in, step, hand out what finished; stop for good at the first exception."""
        try:
            while True:
                self._take_inbox()
                finished = self._engine.step()
                if finished:
                    self._in_loop(lambda finished=finished: self._deliver(finished))  # type: ignore[misc]
        except Exception as error:  # whatever it is, no document may wait for ever
            reason = BrokenEngineError(f"{type(error).__name__}: {error}")
            self._in_loop(lambda: self._fail(reason))

    def _take_inbox(self) -> None:
        """Do what was asked for since the last step; wait for something while there is no work."""
        while not (self._engine.has_work and self._inbox.empty()):
            self._inbox.get()()

    def _deliver(self, finished: list[Completion]) -> None:
        for completion in finished:
            future = self._waiting.get(completion.id)
            if future is not None and not future.done():
                future.set_result(completion)

    def _fail(self, reason: BrokenEngineError) -> None:
        self._broken = reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(reason)
