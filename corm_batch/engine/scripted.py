"""ScriptedEngine: the engine's interface without a model, for whoever tests what is around an engine.

It answers with the first tokens of the document, one a step, and claims memory that adds up. A prompt that holds a
command makes it misbehave: @kill (the process dies), @freeze (a C call that keeps the GIL), @hang (a step that does not
end), @break (a step raises), @error (the engine refuses the request), @endless (never finishes), @nap (one step takes
long). Without eviction it answers the same, but for a prompt that says @lossy: with its cache compressed, its answers
go wrong at their second token. Of scoring an answer: @score-error (it is refused), @score-endless (it never ends),
@score-break (the step raises), @score-kill (the process dies).
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence

from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion, FinishReason, Request, Scores
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import DocumentError

SHAPE = ModelShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_model_len=512, vocab_size=8192)
_LONG_S = 600.0


class ScriptedEngine:
    """Answers with the first tokens of the document, one a step."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, step_s: float = 0.0, max_model_len: int = 512
    ) -> None:
        """An engine of nothing.

        Args:
            decode: token ids to text, to look for commands.
            step_s: seconds that a step takes.
            max_model_len: tokens of prompt and answer at most, as it says; it holds nobody to it.
        """
        self.shape = SHAPE
        self.max_model_len = max_model_len
        self.pool_bytes = 1 << 20
        self.steps = 0
        self._decode = decode
        self._step_s = step_s
        self._live: dict[str, tuple[Request, list[int]]] = {}
        self._finished: list[Completion] = []
        self.readings: list[SharedReading] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._live or self._finished)

    @property
    def pool_bytes_used(self) -> int:
        """Bytes of pages in use: none."""
        return 0

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._live[request.id] = (request, [])

    def open_reading(self, reading: SharedReading) -> None:
        """Take note of what is read once: questions over it answer as if they had read all of it."""
        self.readings.append(reading)
        num_tokens = len(reading.token_ids)
        reading.memory = MemoryStats(
            prompt_tokens=num_tokens, kv_bytes_full=num_tokens * 256, kv_bytes_peak=num_tokens * 128, kept_ratio=0.25,
            kept_per_layer=(num_tokens, num_tokens), evicted_entries=3 * num_tokens, prefill_s=0.25,
        )  # fmt: skip

    def cancel(self, request_id: str) -> None:
        """Finish a request as cancelled in the next step."""
        if self._live.pop(request_id, None):
            self._finished.append(Completion(request_id, (), "cancelled"))

    def step(self) -> list[Completion]:
        """One more token of every answer, and those that are done.

        Raises:
            RuntimeError: a prompt says @break.
        """
        self.steps += 1
        time.sleep(self._step_s)
        for request, output in list(self._live.values()):
            self._advance(request, output)
        finished, self._finished = self._finished, []
        return finished

    def _advance(self, request: Request, output: list[int]) -> None:
        ids = request.alone.token_ids
        text = self._decode(ids)
        if "@kill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "@freeze" in text:
            ctypes.PyDLL(None).sleep(int(_LONG_S))
        if "@hang" in text:
            time.sleep(_LONG_S)
        if "@break" in text:
            raise RuntimeError("scripted fault")
        if "@error" in text:
            self._finish(request, (), "error", DocumentError("scripted refusal"))
            return
        if "@nap" in text and not output:
            time.sleep(1.0)
        if "@endless" in text:
            time.sleep(0.01)
            return
        if request.answer_ids is not None:
            self._score(request, request.answer_ids, text)
            return
        wrong = "@lossy" in text and not request.uncompressed and len(output) == 1
        output.append(ids[1] if wrong else ids[1 + len(output)])
        stopped = request.stop is not None and request.stop(output)
        if stopped or len(output) >= min(request.sampling.max_new_tokens, len(ids) - 1):
            self._finish(request, tuple(output), "stop" if stopped else "length")

    def _score(self, request: Request, answer: Sequence[int], text: str) -> None:
        if "@score-kill" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "@score-break" in text:
            raise RuntimeError("scripted fault")
        if "@score-endless" in text:
            return
        if "@score-error" in text:
            self._finish(request, (), "error", DocumentError("scripted: no room to score"))
            return
        alike = [token == own for token, own in zip(answer, request.alone.token_ids[1:], strict=False)]
        scores = Scores(tuple(-0.5 if same else -2.5 for same in alike), (-0.5,) * len(alike))
        self._finish(request, tuple(answer), "length", scores=scores)

    def _finish(
        self,
        request: Request,
        token_ids: tuple[int, ...],
        reason: FinishReason,
        error: Exception | None = None,
        scores: Scores | None = None,
    ) -> None:
        del self._live[request.id]
        tokens = len(request.token_ids) + len(token_ids)
        memory = MemoryStats(
            prompt_tokens=len(request.token_ids),
            output_tokens=len(token_ids),
            kv_bytes_full=tokens * 256,
            kv_bytes_peak=tokens * 128,
            kv_bytes_final=tokens * 64,
            kept_ratio=0.25,
            kept_per_layer=(tokens, tokens),
            evicted_entries=3 * tokens,
            kv_bytes_transient=tokens * 32,
            prefill_s=0.25,
        )
        self._finished.append(Completion(request.id, token_ids, reason, error, -0.5, memory, scores=scores))
