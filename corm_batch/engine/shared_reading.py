"""SharedReading: a document that an engine reads once for all that is asked about it, as a caller holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakMethod

from corm_batch.engine.figures import MemoryStats


class SharedReading:
    """What `Engine.read` gives; `Request(reading=...)` asks about it. Whoever has it closes it.

    Args:
        id: unique among those of an engine at one time.
        token_ids: the beginning of every prompt over it.
        instruction: spans of `token_ids`, as in `Request`.
        uncompressed: keep every entry of it, whatever the policy.

    Attributes:
        memory: what it costs by itself, once it has been read; what is asked about it costs nothing of this again.
        error: why it cannot be asked about; None while it can, or may be.
        is_closed: nothing more can be asked; what has been is still answered.
    """

    def __init__(
        self,
        id: str,
        token_ids: Sequence[int],
        instruction: tuple[range, ...] | None = None,
        uncompressed: bool = False,
    ) -> None:
        self.id, self.token_ids, self.instruction, self.uncompressed = id, token_ids, instruction, uncompressed
        self.memory = MemoryStats()
        self.error: Exception | None = None
        self.is_closed = False
        self.closing: WeakMethod[Any] | None = None  # how its engine closes it; an engine let go of has done so

    def close(self) -> None:
        """Let its pages go as soon as all that has been asked is answered; called between steps of the engine."""
        close = None if self.closing is None else self.closing()
        if close is not None and not self.is_closed:
            close(self.id)
        self.is_closed = True

    def __reduce__(self) -> Any:
        """For another rank of its engine, which finds its own by the id."""
        return SharedReading, (self.id, self.token_ids, self.instruction, self.uncompressed)
