"""Answers: requests from their arrival to their completion; what a token means to an answer, and how answers end."""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.memory import device_too_small, kept_positions, memory_stats, pool_too_small
from corm_batch.engine.readings import Readings
from corm_batch.engine.request import Completion, FinishReason, Request, SamplingParams, Scores
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Chosen, Sequence
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.engine.stats import EngineStats
from corm_batch.errors import DocumentError, OutOfPages, Shortage
from corm_batch.policies.needs import Needs


@dataclass(frozen=True)
class Continuation:
    """What a step gave one answer.

    Attributes:
        chosen: its next tokens, up to the one it ends with.
        reason: why the answer ends; None when it goes on.
        problem: what went wrong, where it ends with "error".
    """

    chosen: Chosen
    reason: FinishReason | None
    problem: str = ""


def judge(sequence: Sequence, chosen: Chosen, eos_token_ids: abc.Set[int]) -> Continuation:
    """Which of a step's tokens of one sequence count; the sequence stays as it is.

    Args:
        sequence: whose tokens these are.
        chosen: by the step; a log-probability of NaN stands for logits that were not finite, one of -inf for the
            likeliest token for a row that nothing was allowed in.
        eos_token_ids: tokens that end an answer.
    """
    output, matcher = list(sequence.output), sequence.matcher
    if matcher is not None:
        matcher.follow(output + chosen.tokens)
    # Of most steps' tokens none is the last: that is seen of all at once.
    finite = not math.isnan(sum(chosen.logprobs)) and -math.inf not in chosen.best_logprobs
    if finite and not sequence.may_end(chosen.tokens, eos_token_ids):
        return Continuation(chosen, None)
    for count, (token, logprob, best, *_) in enumerate(zip(*chosen, strict=True)):
        if math.isnan(logprob):
            return Continuation(chosen.part(0, count), "error", "the model's logits are not finite")
        if best == -math.inf:
            why = f": {matcher.problem}" if matcher is not None and matcher.problem else ""
            problem = f"after {len(output)} tokens of the answer nothing is left that its grammar and the model's rules"
            return Continuation(chosen.part(0, count), "error", f"{problem} both allow{why}")
        output.append(token)
        if (reason := sequence.finish_reason(output, eos_token_ids)) is not None:
            return Continuation(chosen.part(0, count + 1), reason)
    return Continuation(chosen, None)


class Answers:
    """The requests of one replica that are in flight, and those that have finished and nobody has taken yet.

    Args:
        model: which tokens end an answer.
        needs: of the policy, for the figures.
        config: of the engine, for the figures.
        evictions: closes up what is left of an answer before it is measured.
        scheduler: told of answers that end.
        stats: counts tokens.
    """

    def __init__(
        self,
        model: LoadedModel,
        needs: Needs,
        config: EngineConfig,
        evictions: Evictions,
        scheduler: Scheduler,
        stats: EngineStats,
    ) -> None:
        self.model = model
        self.evictions, self.cache, self.scheduler, self.stats = evictions, evictions.cache, scheduler, stats
        # No method of this: a circle would keep the pool alive.
        self._memory = partial(memory_stats, cache=self.cache, model=model, needs=needs, config=config)
        self.readings = Readings(evictions, scheduler, self._memory)
        self._live: dict[str, Sequence] = {}
        self._finished: list[Completion] = []
        self._arrivals = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._live or self._finished or self.readings.has_work)

    def open(self, request: Request) -> Sequence:
        """A new one.

        Raises:
            ValueError: a request with this id is still in flight.
        """
        if request.id in self._live:
            raise ValueError(f"a request with id {request.id!r} is still in flight")
        sequence = self._sequence(request, self.readings.source(request))
        self._live[request.id] = sequence
        return sequence

    def open_reading(self, reading: SharedReading) -> Sequence:
        """A new document to be read.

        Raises:
            ValueError: a reading with this id has not ended.
        """
        request = Request(
            reading.id, reading.token_ids, SamplingParams(max_new_tokens=1), uncompressed=reading.uncompressed,
            instruction=reading.instruction,
        )  # fmt: skip
        sequence = self._sequence(request, is_reading=True)
        self.readings.open(reading, sequence)
        return sequence

    def _sequence(self, request: Request, source: Sequence | None = None, is_reading: bool = False) -> Sequence:
        """What runs it."""
        self._arrivals += 1
        num_layers, device = len(self.cache.layers.owners), self.model.device
        return Sequence(request, self._arrivals, num_layers, device, source, is_reading)

    def cancel(self, request_id: str) -> None:
        """End one as it stands; unknown or finished ids are ignored."""
        if request_id in self._live:
            self.finish(self._live[request_id], "cancelled")

    def extend(self, sequences: abc.Sequence[Sequence], chosen: abc.Sequence[Chosen]) -> None:
        """Give every sequence the tokens a step chose, up to the one it ends with; finish those that end."""
        if not sequences:
            return
        ends, columns = self.model.eos_token_ids, list(zip(sequences, chosen, strict=True))
        found = self.model.ranks.lead(lambda: [judge(*each, ends) for each in columns])
        ended: list[tuple[Sequence, FinishReason]] = []
        for sequence, continuation in zip(sequences, found, strict=True):
            if sequence.is_reading:
                self.readings.read(sequence)
                continue
            sequence.extend(continuation.chosen)
            if sequence.request.answer_ids is None:
                self.stats.output_tokens += len(continuation.chosen.tokens)
            if continuation.reason == "error":
                self.finish(sequence, "error", DocumentError(continuation.problem))
            elif continuation.reason is not None:
                ended.append((sequence, continuation.reason))
        if ended:
            self.evictions.compact([sequence for sequence, _ in ended])
        for sequence, reason in ended:
            self.finish(sequence, reason)

    def fail(self, sequence: Sequence, shortage: Shortage) -> None:
        """Fail one that had the pool, or the device, to itself and found it too small."""
        error: Exception
        if isinstance(shortage.error, OutOfPages):
            pool = self.cache.pool
            page_bytes = pool.page_bytes * self.model.ranks.size
            own = [one.slot for one in (sequence, sequence.source) if one is not None]
            need = sum(map(self.cache.pages_held, own)) + pool.num_free + shortage.error.num_missing
            error = pool_too_small(sequence, need * page_bytes, pool.num_pages * page_bytes)
        else:
            error = device_too_small(sequence, shortage.error)
        self.finish(sequence, "error", error)

    def finish(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        """Close one and its pages, and book what it cost; a reading that ends so takes what waits for it with it."""
        if sequence.is_reading:
            assert error is not None
            self.readings.fail(sequence, error)
            for question in [one for one in self._live.values() if one.source is sequence]:
                self.finish(question, "error", error)
            return
        del self._live[sequence.request.id]
        self.scheduler.remove(sequence)
        request, done = sequence.request, reason in ("stop", "length")
        positions, scores = None, None
        if done and request.return_kept_positions and sequence.stores and sequence.slot >= 0:
            positions = kept_positions(self.cache, sequence.slot, self.model.ranks)
        if done and request.answer_ids is not None:
            scores = Scores(tuple(sequence.logprobs), tuple(sequence.best_logprobs))
        memory = self._memory(sequence)
        if sequence.slot >= 0:
            self.cache.close(sequence.slot)
        if sequence.source is not None:
            self.readings.answered(sequence.source)
        mean_logprob = sum(sequence.logprobs) / max(1, len(sequence.output))
        told = None if request.num_likeliest is None else tuple(sequence.told)
        self._finished.append(
            Completion(request.id, tuple(sequence.output), reason, error, mean_logprob, memory, positions, scores, told)
        )

    def collect(self) -> list[Completion]:
        """Those that have finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def put_back(self, completions: Iterable[Completion]) -> None:
        """Have `collect` return these once more."""
        self._finished += completions
