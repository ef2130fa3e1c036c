"""EngineCore: one model replica with many documents in flight. Token ids in, token ids and exact memory figures out.

Knows nothing of text, files or Ray. Not thread safe: one thread calls everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from uuid import uuid4
from weakref import WeakMethod

import torch

from corm_batch.engine.answers import Answers
from corm_batch.engine.bases import find_bases, find_layout, refuse_lost
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.decoder import Decoder
from corm_batch.engine.evictions import Evictions
from corm_batch.engine.fp8 import refuse_old_gpu
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.pins import find_pin_problem
from corm_batch.engine.policy_check import check_policy, least_room
from corm_batch.engine.profile_run import measure_pool_bytes
from corm_batch.engine.propagating import propagating
from corm_batch.engine.request import Completion, Request, SamplingParams, Scores, find_problem
from corm_batch.engine.runner import Runner
from corm_batch.engine.scheduler import Scheduler
from corm_batch.engine.sequence import Sequence as EngineSequence
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.engine.stats import EngineStats
from corm_batch.engine.support import refuse_beside_groups, refuse_outliers
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.engine.vocabulary import described
from corm_batch.errors import DocumentError, EngineError, Shortage
from corm_batch.grammar.grammar import Grammar
from corm_batch.grammar.matcher import Matchers
from corm_batch.kv.cache import KVCache
from corm_batch.kv.layers import Layers
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.full import Full
from corm_batch.policies.proximal import Proximal
from corm_batch.policies.sliding_window import SlidingWindow

_AS_IT_COMES = SamplingParams()


def serving(policy: KVPolicy, model: LoadedModel, sharing: Mapping[int, int]) -> KVPolicy:
    """The policy as it serves this rank of a model some of whose layers borrow others' entries.

    Raises:
        SpecError, ModelLoadError: it cannot; see `check_policy` and `described`.
    """
    heads, rank, shape = model.shard.num_kv_heads, model.ranks.rank, model.shape.storing(sharing)
    known = described(policy, shape, model.load_tokenizer)
    check_policy(policy.for_model(known), shape, model.dtype)
    return policy.for_model(known._replace(own_heads=slice(rank * heads, (rank + 1) * heads)))


def by_layer(policy: KVPolicy, layers: Layers, windows: Sequence[int | None]) -> list[KVPolicy]:
    """What decides in each layer that has entries: the policy, or what the model itself says: a window, or that distant
    tokens' are another layer's."""
    decide = [policy if window is None else SlidingWindow(window=window) for window in windows]
    if layers.groups is not None:
        for layer in layers.groups.members:
            decide[layer] = Proximal(groups=layers.groups)
    return layers.own(decide)


class EngineCore:
    """Continuous batching over a page pool that holds only what the policy keeps.

    Args:
        model: loaded and checked.
        policy: what survives in layers without a sliding window of their own.
        config: budgets and sizes.
    """

    def __init__(self, model: LoadedModel, policy: KVPolicy, config: EngineConfig) -> None:
        self.model, self.policy, self.config = model, policy, config
        config = config.storing(usual_storage(policy, model.shape, model.dtype))
        shape, ranks, layers = model.shard, model.ranks, model.layers(config.sharing)
        policy = serving(policy, model, config.sharing)
        self.max_model_len = shape.context(config.max_model_len)
        self.least_room = least_room(policy, self.max_model_len)
        self.policies, full = (by_layer(one, layers, model.windows) for one in (policy, Full()))
        form = config.form
        if form.needs_fp8:
            refuse_old_gpu(model.device, f"engine.storage: {form.name}")
        refuse_beside_groups(shape, config)
        refuse_outliers(model.module, form)
        given, bases = config.pool_bytes(model.device.type), find_bases(model, form)
        layout = find_layout(model, config, policy.columns, bases)
        num_bytes = given // ranks.size if given else measure_pool_bytes(config, model, self.policies, layout, bases)
        refuse_lost(model, form, bases)
        num_pages = ranks.least(max(1, num_bytes // layout.page_bytes))
        self._pins_problem = partial(
            find_pin_problem, policy, num_layers=len(layers.owners), num_heads=model.shape.num_kv_heads
        )
        self.cache = KVCache(
            2 * config.max_sequences, layers, shape.num_kv_heads, num_pages, layout, form, model.device, ranks.least,
            bases,
        )  # fmt: skip
        window = policy.needs.reduction.window if policy.needs.reduction else 256
        compact_every = config.compact_every or max(1, min(window, 256) // 2)
        self.evictions = evictions = Evictions(
            self.cache, self.policies, full, ranks, compact_every,
            propagating(config.propagation, model, policy, self.cache.ops),
        )  # fmt: skip
        self.decoder = Decoder(model, self.cache, self.policies, full)
        growth = compact_every + self.decoder.most_steps
        self.scheduler = Scheduler(config, self.cache, lambda one: evictions.of(one).mean_entries(one) + growth)
        self.stats = EngineStats()
        streaming = config.prefill == "streaming"
        self.runner = Runner(model, evictions, self.decoder, self.scheduler, streaming, self.stats)
        self._matchers = Matchers(model.load_tokenizer, model.shape.vocab_size, model.eos_token_ids)
        self.answers = Answers(model, policy.needs, config, evictions, self.scheduler, self.stats)

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
        return bool(self.answers)

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Answer every request, in the order in which they finish; `requests` is read as room appears.

        Raises:
            ValueError: two requests in flight have the same id.
        """
        source = iter(requests)
        exhausted = False
        while self.has_work or not exhausted:
            while not exhausted and self.scheduler.num_waiting < self.config.max_sequences:
                request = next(source, None)
                if request is None:
                    exhausted = True
                else:
                    self.add(request)
            yield from self.step()

    def score(
        self,
        token_ids: Sequence[int],
        answer_ids: Sequence[int],
        *,
        sampling: SamplingParams = _AS_IT_COMES,
        uncompressed: bool = True,
        instruction: tuple[range, ...] | None = None,
        grammar: Grammar | None = None,
        reading: SharedReading | None = None,
    ) -> Scores:
        """What the model makes of an answer to a prompt; other work goes on meanwhile, and its completions stay.

        Args:
            token_ids: the prompt.
            answer_ids: the answer, the end-of-sequence token included where it has one.
            sampling: of the request whose answer it is.
            uncompressed: by one exact pass; False under the policy, token by token.
            instruction, grammar, reading: as in `Request`.

        Raises:
            DocumentError: it can never be scored, or it alone is too much for the device or the pool.
        """
        request = Request(
            uuid4().hex, token_ids, sampling, answer_ids=answer_ids, uncompressed=uncompressed,
            instruction=instruction, grammar=grammar, reading=reading,
        )  # fmt: skip
        self.add(request)
        others: list[Completion] = []
        mine: Completion | None = None
        try:
            while mine is None:
                for done in self.step():
                    if done.id == request.id:
                        mine = done
                    else:
                        others.append(done)
        finally:
            self.answers.put_back(others)
        if mine.scores is None:
            raise mine.error or EngineError("the score was cancelled")
        return mine.scores

    def add(self, request: Request) -> None:
        """Queue a request. One that can never be answered comes back from `step` with its error.

        Raises:
            ValueError: a request with this id is still in flight.
        """
        problem = self.answers.readings.find_problem(request)
        sequence = self.answers.open(request)
        problem = problem or self._find_problem(sequence)
        if problem is not None:
            self.answers.finish(sequence, "error", problem)
        elif request.most_new_tokens == 0:
            self.answers.finish(sequence, "length")
        else:
            self.scheduler.add(sequence)

    def read(
        self,
        token_ids: Sequence[int],
        *,
        instruction: tuple[range, ...] | None = None,
        uncompressed: bool = False,
        id: str | None = None,
    ) -> SharedReading:
        """Queue a document to be read once for all that is asked about it, with `Request(reading=...)` and from now on.
        Its pages are held until it is closed and the last of that is answered.

        Args:
            token_ids: what all prompts over it begin with.
            instruction: spans of these, as in `Request`.
            uncompressed: keep every entry, whatever the policy; what is asked over it may then, too.
            id: the caller's name for it; unique among the readings in the engine at one time.

        Returns:
            The reading; where it can never be read its `error` says why, now or later, and so does every question's.

        Raises:
            ValueError: a reading with this id has not ended.
        """
        reading = SharedReading(id or uuid4().hex, token_ids, instruction, uncompressed)
        self.open_reading(reading)
        return reading

    def open_reading(self, reading: SharedReading) -> None:
        """As `read`, of one that is made."""
        sequence = self.answers.open_reading(reading)
        reading.closing = WeakMethod(self.close_reading)
        if (problem := self._find_problem(sequence)) is not None:
            self.answers.finish(sequence, "error", problem)
        else:
            self.scheduler.add(sequence)

    def close_reading(self, reading_id: str) -> None:
        """As `SharedReading.close`; what has ended, or is not known, is ignored."""
        self.answers.readings.close(reading_id)

    def _find_problem(self, sequence: EngineSequence) -> DocumentError | None:
        """Why it can never be run; None when it can, and then what is to be read behind its prompt is known."""
        request = sequence.request
        problem = self.model.rules.find_problem(request.sampling)
        problem = problem or find_problem(request, self.shape.vocab_size, self.max_model_len)
        problem = problem or self._pins_problem(request)
        try:
            room = self.max_model_len - sequence.num_prompt_tokens
            if problem is None and request.grammar is not None:
                sequence.matcher = self._matchers.matcher(request.grammar, request.sampling.stop_token_ids)
            sequence.extra_passes = () if problem else self.evictions.extra_passes(sequence, room)
        except DocumentError as error:
            problem = error
        return problem

    def cancel(self, request_id: str) -> None:
        """Stop a request; `step` returns it as cancelled. Unknown or finished ids are ignored."""
        self.answers.cancel(request_id)

    def close(self) -> None:
        """End what runs beside this process: nothing, where the engine is alone."""

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """One forward pass over prompts if any can start, else a few next tokens of every running sequence.

        Returns:
            What finished since the last call.
        """
        started = time.monotonic()
        if (work := self.scheduler.schedule(self.decoder.num_steps)) is not None:
            try:
                chosen = self.runner.run(work)
            except Shortage as shortage:
                if (alone := self.scheduler.take_back(work, shortage)) is not None:
                    self.answers.fail(alone, shortage)
            else:
                self.answers.extend(work.sequences, chosen)
                self.evictions.compact_due(self.scheduler.running)
            self.stats.spent(work, time.monotonic() - started)
        return self.answers.collect()
