"""EngineCore: one model replica with many documents in flight. Token ids in, token ids and exact memory figures out.

Knows nothing of text, files or Ray. Not thread safe: one thread calls everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq

import numpy as np
import torch

from corm_batch.engine.batch import Span
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.decoder import Decoder
from corm_batch.engine.eviction import Eviction
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.memory import device_too_small, kept_positions, memory_stats, pool_bytes, pool_too_small
from corm_batch.engine.outcome import judge
from corm_batch.engine.policy_check import check_policy
from corm_batch.engine.prefiller import Prefiller
from corm_batch.engine.rehearsal import measure_pool_bytes
from corm_batch.engine.request import Completion, FinishReason, Request, find_problem
from corm_batch.engine.sampler import prepare, sample
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.stats import EngineStats
from corm_batch.errors import DocumentError, OutOfPages
from corm_batch.kv.cache import KVCache
from corm_batch.kv.pool import page_bytes
from corm_batch.ops.pages import entry_columns
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.sliding_window import SlidingWindow


class EngineCore:
    """Continuous batching over a page pool that holds only what the policy keeps.

    Args:
        model: loaded and checked.
        policy: what survives in layers without a sliding window of their own.
        config: budgets and sizes.
    """

    def __init__(self, model: LoadedModel, policy: KVPolicy, config: EngineConfig) -> None:
        check_policy(policy, model.shape, model.dtype)
        self.model, self.policy, self.config = model, policy, config
        shape, ranks = model.shard, model.ranks
        self.max_model_len = shape.context(config.max_model_len)
        self.policies = [policy if window is None else SlidingWindow(window=window) for window in model.windows]
        columns = entry_columns(shape.head_dim, model.dtype, policy.columns)
        known = pool_bytes(config, model.device)
        num_bytes = known // ranks.size if known else measure_pool_bytes(config, model, self.policies, columns)
        num_pages = ranks.least(max(1, num_bytes // page_bytes(config.page_size, columns)))
        self.cache = KVCache(
            config.max_sequences, shape.num_layers, shape.num_kv_heads, config.page_size, num_pages, columns,
            model.device, ranks.least,
        )  # fmt: skip
        self.eviction = Eviction(self.cache, self.policies, ranks)
        window = policy.needs.reduction.window if policy.needs.reduction else 256
        self.compact_every = config.compact_every or max(1, min(window, 256) // 2)
        self.decoder = Decoder(model, self.cache, self.policies)
        growth, limits = self.compact_every + self.decoder.most_steps, self.eviction.limits
        self.scheduler = Scheduler(config, self.cache, lambda tokens: limits.mean_entries(tokens) + growth)
        self.prefiller = Prefiller(model, self.eviction, config.prefill == "streaming", self.scheduler.make_room)
        self.stats = EngineStats()
        self._live: dict[str, Sequence] = {}
        self._finished: list[Completion] = []
        self._arrivals = 0

    @property
    def shape(self) -> ModelShape:
        """The model's counts."""
        return self.model.shape

    @property
    def pool_bytes(self) -> int:
        """Bytes of all pages."""
        return self.cache.pool.num_pages * self.cache.pool.page_bytes * self.model.ranks.size

    @property
    def pool_bytes_used(self) -> int:
        """Bytes of the pages somebody holds."""
        pool = self.cache.pool
        return sum(self.model.ranks.gather(pool.num_pages - pool.num_free)) * pool.page_bytes

    @property
    def has_work(self) -> bool:
        """Whether another step would do anything."""
        return bool(self._live or self._finished)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answer every request, in the order in which they finish; `requests` is read as room appears.

        Raises:
            ValueError: two requests in flight have the same id.
        """
        source = iter(requests)
        exhausted = False
        while self.has_work or not exhausted:
            while not exhausted and len(self.scheduler.waiting) < self.config.max_sequences:
                request = next(source, None)
                if request is None:
                    exhausted = True
                else:
                    self.add(request)
            yield from self.step()

    def add(self, request: Request) -> None:
        """Queue a request. One that can never be answered comes back from `step` with its error.

        Raises:
            ValueError: a request with this id is still in flight.
        """
        if request.id in self._live:
            raise ValueError(f"a request with id {request.id!r} is still in flight")
        sequence = Sequence(request, self._arrivals, self.shape.num_layers, self.model.device)
        self._arrivals += 1
        self._live[request.id] = sequence
        barred = self.model.rules.find_problem(request.sampling)
        problem = barred or find_problem(request, self.shape.vocab_size, self.max_model_len)
        if problem is None:
            self.scheduler.waiting.append(sequence)
        else:
            self._finish(sequence, "error", problem)

    def cancel(self, request_id: str) -> None:
        """Stop a request; `step` returns it as cancelled. Unknown or finished ids are ignored."""
        if request_id in self._live:
            self._finish(self._live[request_id], "cancelled")

    def close(self) -> None:
        """End what runs beside this process: nothing, where the engine is alone."""

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """One forward pass over prompts if any can start, else a few next tokens of every running sequence.

        Returns:
            What finished since the last call.
        """
        started = time.monotonic()
        if spans := self.scheduler.schedule_prefill():
            self._prefill(spans)
            self.stats.prefill_s += time.monotonic() - started
        elif self.scheduler.running:
            self._decode(*self.scheduler.schedule_decode(self.decoder.num_steps(self.scheduler.running)))
            self.stats.decode_s += time.monotonic() - started
        finished, self._finished = self._finished, []
        return finished

    def _prefill(self, spans: Seq[Span]) -> None:
        """Run prompts or chunks; those that end give their first token."""
        started = time.monotonic()
        for span in spans:
            span.sequence.started_at = span.sequence.started_at or started
        try:
            logits = self.prefiller.run(spans)
        except (OutOfPages, torch.OutOfMemoryError) as error:
            self._give_up(spans, error)
            return
        self.scheduler.prefilled(spans)
        in_flight = len(self.scheduler.running) + len(self.scheduler.partial)
        self.stats.most_in_flight = max(self.stats.most_in_flight, in_flight)
        ended = [span.sequence for span in spans if span.ends_prompt]
        for sequence in ended:
            sequence.pages_after_prefill = self.cache.pages_held(sequence.slot)
        chosen = [column.tolist() for column in sample(logits, prepare(self.model, ended, 1))] if ended else []
        self.stats.prefilled(spans, time.monotonic() - started)
        if ended:
            self._accept(ended, *([row] for row in chosen))

    def _decode(self, sequences: Seq[Sequence], num_steps: int) -> None:
        """Run some tokens of each sequence and, from time to time, free the pages of what expired."""
        if not sequences:
            self._starve(self.scheduler.running[0], self.cache.num_lists)
            return
        slots = np.array([sequence.slot for sequence in sequences])
        started = time.monotonic()
        try:
            chosen = self.decoder.run(sequences, num_steps)
        except torch.OutOfMemoryError as error:
            self.cache.table.set_lengths(slots, self.cache.table.lengths[slots])
            if len(sequences) == 1:
                self._fail_for_memory(sequences[0], error)
            else:
                self.scheduler.halve()
            return
        self.cache.advance(slots, num_steps)
        self.stats.decoded(sequences, num_steps, time.monotonic() - started)
        self._accept(sequences, *chosen)
        if due := [s for s in self.scheduler.running if len(s.output) - s.num_compacted >= self.compact_every]:
            self.eviction.compact(due)

    def _accept(self, sequences: Seq[Sequence], tokens: list[list[int]], logprobs: list[list[float]]) -> None:
        """Give every sequence its next tokens, [steps][S], up to the one it ends with; finish those that end."""
        chosen = zip(sequences, zip(*tokens, strict=True), zip(*logprobs, strict=True), strict=True)
        outcomes = self.model.ranks.lead(lambda: [judge(*each, self.model.eos_token_ids) for each in chosen])
        ended: list[tuple[Sequence, FinishReason]] = []
        for sequence, outcome in zip(sequences, outcomes, strict=True):
            sequence.output += outcome.tokens
            sequence.logprob_sum += outcome.logprob_sum
            self.stats.output_tokens += len(outcome.tokens)
            if outcome.reason == "error":
                self._finish(sequence, "error", DocumentError("the model's logits are not finite"))
            elif outcome.reason is not None:
                ended.append((sequence, outcome.reason))
        if ended:
            self.eviction.compact([sequence for sequence, _ in ended])
        for sequence, reason in ended:
            self._finish(sequence, reason)

    def _give_up(self, spans: Seq[Span], error: Exception) -> None:
        """Start over with less at a time after a step that found too little memory; a document alone in it fails."""
        if len(spans) > 1 and not isinstance(error, OutOfPages):
            self.scheduler.token_budget = sum(span.num_tokens for span in spans) // 2
        if len(spans) > 1 or self.scheduler.swapped:
            self.scheduler.give_up(spans)
        elif isinstance(error, OutOfPages):
            self._starve(spans[0].sequence, self.cache.pool.num_free + error.num_missing)
        else:
            self._fail_for_memory(spans[0].sequence, error)

    def _fail_for_memory(self, sequence: Sequence, error: Exception) -> None:
        """Fail a document that had the whole device and found it too small."""
        self._finish(sequence, "error", device_too_small(sequence, error))

    def _starve(self, sequence: Sequence, num_missing: int) -> None:
        """Fail the one document that has the whole pool and finds it too small."""
        num_pages = self.cache.pages_held(sequence.slot) + num_missing
        need = num_pages * self.cache.pool.page_bytes * self.model.ranks.size
        self._finish(sequence, "error", pool_too_small(sequence, need, self.pool_bytes))

    def _finish(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        """Close a sequence and its pages, and book what it cost."""
        del self._live[sequence.request.id]
        self.scheduler.remove(sequence)
        positions = None
        if reason in ("stop", "length") and sequence.request.return_kept_positions:
            positions = kept_positions(self.cache, sequence.slot, self.model.ranks)
        memory = memory_stats(sequence, self.cache, self.model, self.policy.needs, self.config)
        if sequence.slot >= 0:
            self.cache.close(sequence.slot)
        mean_logprob = sequence.logprob_sum / max(1, len(sequence.output))
        self._finished.append(
            Completion(sequence.request.id, tuple(sequence.output), reason, error, mean_logprob, memory, positions)
        )
