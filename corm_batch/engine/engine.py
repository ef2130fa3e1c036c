"""Engine: one model replica with many documents in flight. Token ids in, token ids and exact memory figures out.

Knows nothing of text, files or Ray. Not thread safe: one thread calls everything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from corm_batch.engine.batch import ChunkBatch, DecodeBatch, PrefillBatch, Span
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.eviction import compact
from corm_batch.engine.loader import LoadedModel, load_model
from corm_batch.engine.memory import kept_positions, memory_stats, pool_bytes
from corm_batch.engine.request import Completion, FinishReason, Request
from corm_batch.engine.sampler import sample
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import CapacityError, DocumentError, SpecError
from corm_batch.kv.cache import KVCache
from corm_batch.kv.pool import OutOfPages, page_bytes
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.sliding_window import SlidingWindow
from corm_batch.registry import describe


class Engine:
    """Continuous batching over a page pool that holds only what the policy keeps.

    Args:
        model: loaded and checked.
        policy: what survives in layers without a sliding window of their own.
        config: budgets and sizes.
    """

    def __init__(self, model: LoadedModel, policy: KVPolicy, config: EngineConfig) -> None:
        self.model, self.policy, self.config = model, policy, config
        shape = model.shape
        self.max_model_len = shape.context(config.max_model_len)
        self.policies = [policy if window is None else SlidingWindow(window=window) for window in model.windows]
        size = page_bytes(config.page_size, shape.head_dim, model.dtype)
        num_pages = max(1, pool_bytes(config, model.device) // size)
        self.cache = KVCache(
            config.max_sequences, shape.num_layers, shape.num_kv_heads, shape.head_dim, config.page_size, num_pages,
            model.dtype, model.device,
        )  # fmt: skip
        self.scheduler = Scheduler(config, self.cache)
        window = policy.reduction.window if policy.reduction else 256
        self.compact_every = config.compact_every or max(1, window // 2)
        self._live: dict[str, Sequence] = {}
        self._finished: list[Completion] = []
        self._arrivals = 0

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str,
        *,
        policy: Mapping[str, Any] | KVPolicy,
        dtype: str = "bfloat16",
        device: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        **config: Any,
    ) -> Engine:
        """Load a model and make an engine of it.

        Args:
            path_or_hub_id: a local folder or a hub id.
            policy: a policy, or its name and fields, such as {"name": "corm", "window": 256}.
            dtype: "float32", "bfloat16" or "float16".
            device: "cpu", "cuda", "cuda:1" ...; "auto" takes a GPU when there is one.
            revision, trust_remote_code: as in transformers.
            **config: fields of EngineConfig.

        Raises:
            SpecError: a wrong policy, dtype or config field.
            ModelLoadError, UnsupportedModelError: see `load_model`.
        """
        chosen = KVPolicy.from_spec(policy)
        try:
            settings = EngineConfig.model_validate(config)
        except ValidationError as error:
            raise SpecError(describe(error, "engine", EngineConfig)) from error
        if dtype not in ("float32", "bfloat16", "float16"):
            raise SpecError(f"model.dtype: got {dtype!r}, allowed are float32, bfloat16 and float16")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(
            path_or_hub_id,
            getattr(torch, dtype),
            torch.device(device),
            settings.max_model_len,
            revision,
            trust_remote_code,
        )
        return cls(model, chosen, settings)

    @property
    def shape(self) -> ModelShape:
        """The model's counts."""
        return self.model.shape

    @property
    def pool_bytes(self) -> int:
        """Bytes of all pages."""
        return self.cache.pool.num_pages * self.cache.pool.page_bytes

    @property
    def pool_bytes_used(self) -> int:
        """Bytes of the pages somebody holds."""
        return (self.cache.pool.num_pages - self.cache.pool.num_free) * self.cache.pool.page_bytes

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
        problem = self._problem(request)
        if problem is None:
            self.scheduler.waiting.append(sequence)
        else:
            self._finish(sequence, "error", problem)

    def cancel(self, request_id: str) -> None:
        """Stop a request; `step` returns it as cancelled. Unknown or finished ids are ignored."""
        if request_id in self._live:
            self._finish(self._live[request_id], "cancelled")

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """One forward pass: prompts if any can start, else the next token of every running sequence.

        Returns:
            What finished since the last call.
        """
        if spans := self.scheduler.schedule_prefill():
            self._prefill(spans)
        elif sequences := self.scheduler.schedule_decode():
            self._decode(sequences)
        elif self.scheduler.running:
            self._starve(self.scheduler.running[0])
        finished, self._finished = self._finished, []
        return finished

    def _prefill(self, spans: Seq[Span]) -> None:
        """Run prompts or chunks; those that end give their first token."""
        started = time.monotonic()
        for span in spans:
            span.sequence.started_at = span.sequence.started_at or started
        kind = ChunkBatch if self.config.prefill == "streaming" else PrefillBatch
        try:
            logits = self.model.forward(kind(spans, self.cache, self.policies, self.scheduler.make_room))
        except OutOfPages as error:
            if len(spans) == 1:
                self._starve(spans[0].sequence, error.num_missing)
            else:
                self.scheduler.give_up(spans)
            return
        self.scheduler.prefilled(spans)
        ended = [span.sequence for span in spans if span.ends_prompt]
        for sequence in ended:
            sequence.pages_after_prefill = self.cache.pages_held(sequence.slot)
        self._accept(ended, logits)

    def _decode(self, sequences: Seq[Sequence]) -> None:
        """Run one token of each sequence and, from time to time, free the pages of what expired."""
        logits = self.model.forward(DecodeBatch(sequences, self.cache, self.policies))
        self._accept(sequences, logits)
        for sequence in sequences:
            if sequence.request.id in self._live and len(sequence.output) % self.compact_every == 0:
                compact(self.cache, self.policies, sequence)

    def _accept(self, sequences: Seq[Sequence], logits_SV: torch.Tensor) -> None:
        """Give every sequence its next token; finish those that end with it."""
        if not sequences:
            return
        now = time.monotonic()
        for sequence, token, logprob in zip(sequences, *sample(logits_SV, sequences), strict=True):
            sequence.first_token_at = sequence.first_token_at or now
            if math.isnan(logprob):
                self._finish(sequence, "error", DocumentError("the model's logits are not finite"))
                continue
            sequence.output.append(token)
            sequence.logprob_sum += logprob
            reason = self._finish_reason(sequence)
            if reason is not None:
                self._finish(sequence, reason)

    def _finish_reason(self, sequence: Sequence) -> FinishReason | None:
        """Why the newest token ends the answer; None when it does not."""
        request, output = sequence.request, sequence.output
        if output[-1] in self.model.eos_token_ids and not request.sampling.ignore_eos:
            return "stop"
        if request.stop is not None and request.stop(output):
            return "stop"
        return "length" if len(output) >= request.sampling.max_new_tokens else None

    def _problem(self, request: Request) -> Exception | None:
        """Why this request can never be answered; None when it can."""
        ids = np.asarray(request.token_ids)
        if ids.size == 0:
            return DocumentError("the prompt is empty")
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= self.shape.vocab_size:
            return DocumentError(f"the prompt has a token id outside 0..{self.shape.vocab_size - 1}")
        length = ids.size + request.sampling.max_new_tokens
        if length > self.max_model_len:
            return DocumentError(
                f"{ids.size} prompt tokens and up to {request.sampling.max_new_tokens} new ones make {length}; "
                f"the context is {self.max_model_len}"
            )
        return None

    def _starve(self, sequence: Sequence, num_missing: int = 0) -> None:
        """Fail the one document that has the whole pool and finds it too small."""
        pages = self.cache.pages_held(sequence.slot) + max(num_missing, 1)
        need = pages * self.cache.pool.page_bytes
        message = (
            f"{sequence.num_prompt_tokens} prompt tokens need at least {need} bytes of cache, the pool has "
            f"{self.pool_bytes} (engine.kv_memory or engine.memory_fraction sets it)"
        )
        self._finish(sequence, "error", CapacityError(message, bytes_needed=need, bytes_available=self.pool_bytes))

    def _finish(self, sequence: Sequence, reason: FinishReason, error: Exception | None = None) -> None:
        """Close a sequence and its pages, and book what it cost."""
        del self._live[sequence.request.id]
        self.scheduler.remove(sequence)
        positions = None
        if reason in ("stop", "length"):
            compact(self.cache, self.policies, sequence)
            if sequence.request.return_kept_positions:
                positions = kept_positions(self.cache, sequence.slot)
        memory = memory_stats(sequence, self.cache, self.model, self.policy.reduction, self.config)
        if sequence.slot >= 0:
            self.cache.close(sequence.slot)
        mean_logprob = sequence.logprob_sum / max(1, len(sequence.output))
        self._finished.append(
            Completion(sequence.request.id, tuple(sequence.output), reason, error, mean_logprob, memory, positions)
        )
