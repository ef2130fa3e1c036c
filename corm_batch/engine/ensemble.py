"""Ensemble: several policies beside each other on one model, all of which are asked the same.

In exact prefill the hidden states of a prompt do not depend on the policy: one pass over it serves all, each of which
keeps entries of its own in a cache of its own, and goes on by itself from there. Where prefill is streaming every
policy reads the prompts by itself. Knows nothing of what the answers are wanted for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from pydantic import ByteSize
from torch import Tensor

from corm_batch.engine.bases import find_bases, find_layout
from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore, by_layer, serving
from corm_batch.engine.limits import Limits
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shared_pass import SharedPass
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.engine.work import Prefill
from corm_batch.errors import OutOfPages, SpecError
from corm_batch.kv.layout import Layout
from corm_batch.policies.base import KVPolicy
from corm_batch.propagation.base import Propagation, propagation_problem

_GROWTH = 160
"""Entries that a head comes to hold between two compactions, at most, beyond what its budget allows."""


@dataclass(frozen=True)
class Need:
    """What the caches of one policy take on a model.

    Args:
        policy: which.
        model: of one rank.
        config: of its engine; those of one ensemble differ in propagation and storage at most.

    Raises:
        SpecError, ModelLoadError: the policy cannot serve the model so. Raised when it is first asked.
    """

    policy: KVPolicy
    model: LoadedModel
    config: EngineConfig

    def num_bytes(self, num_tokens: int) -> int:
        """Of prompt and answer of so many tokens, at most: what the policy may keep, in pages, or all of it where the
        model is to read more behind the prompt."""
        layout, heads = self._layout, self._limits.num_heads
        most = layout.most_pages(num_tokens - 1, heads, 1)
        if self.policy.needs.extra_passes:
            return layout.page_bytes * most
        kept = self._limits.pages(num_tokens, self.policy.num_first) + layout.most_pages(_GROWTH - 1, heads, 1)
        return layout.page_bytes * min(most, kept)

    @cached_property
    def _limits(self) -> Limits:
        if problem := propagation_problem(self.config.propagation, self.policy):
            raise SpecError(problem)
        sharing = self.config.sharing
        layers = by_layer(serving(self.policy, self.model, sharing), self.model.layers(sharing), self.model.windows)
        return Limits(layers, self.model.shard.num_kv_heads, self._layout.by_layer, self.model.ranks)

    @cached_property
    def _layout(self) -> Layout:
        config = self.config.storing(usual_storage(self.policy, self.model.shape, self.model.dtype))
        return find_layout(self.model, config, self.policy.columns, find_bases(self.model, config.form))


def side_by_side_at_most(needs: Mapping[str, Need], num_bytes: int, longest: int) -> list[list[str]]:
    """Policies in groups, in order, whose caches of one prompt and answer of `longest` tokens fit so many bytes; one
    that does not fit them by itself is a group of its own."""
    groups: list[list[str]] = []
    room = 0
    for label, need in needs.items():
        size = need.num_bytes(longest)
        if not groups or size > room:
            groups.append([])
            room = num_bytes
        groups[-1].append(label)
        room -= size
    return groups


class Ensemble:
    """Engines of one model, one a policy, that read prompts together.

    Args:
        needs: the policies by label, each of this model, which is alone on its device.
        num_bytes: of all caches together.
        longest: tokens of the longest prompt and its answer, by which the bytes are shared out.
    """

    def __init__(self, needs: Mapping[str, Need], num_bytes: int, longest: int) -> None:
        first = next(iter(needs.values()))
        self.model, self.config, self._needs = first.model, first.config, needs
        sizes = {label: need.num_bytes(longest) for label, need in needs.items()}
        self._room = {label: num_bytes * size // sum(sizes.values()) for label, size in sizes.items()}
        self.engines = {
            label: EngineCore(
                self.model, need.policy, need.config.model_copy(update={"kv_memory": ByteSize(self._room[label])})
            )
            for label, need in needs.items()
        }

    def run(self, requests: Iterable[Request]) -> Iterator[dict[str, Completion]]:
        """What every policy makes of each request, by label, in the order of `requests`; some at a time are read."""
        for group in self._groups(requests):
            self._read(group)
            found: dict[str, dict[str, Completion]] = {request.id: {} for request in group}
            for label, engine in self.engines.items():
                while engine.has_work:
                    for done in engine.step():
                        found[done.id][label] = done
            yield from found.values()

    def _groups(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Requests whose caches, and answers, fit beside each other; at least one."""
        group: list[Request] = []
        room = dict(self._room)
        for request in requests:
            length = len(request.token_ids) + request.most_new_tokens
            sizes = {label: need.num_bytes(length) for label, need in self._needs.items()}
            full = len(group) == self.config.max_sequences
            if group and (full or any(size > room[label] for label, size in sizes.items())):
                yield group
                group, room = [], dict(self._room)
            group.append(request)
            room = {label: room[label] - size for label, size in sizes.items()}
        if group:
            yield group

    def _read(self, group: Sequence[Request]) -> None:
        """Hand the requests to every engine; those that can share a pass over the prompts have had it then."""
        sharing = {}
        for label, engine in self.engines.items():
            if self.config.prefill == "exact":
                sharing[label] = engine
            else:
                for request in group:
                    engine.add(request)
        while group and sharing:
            count = _packed(group, self.config.step_token_budget)
            part, group = group[:count], group[count:]
            works = {label: _taken_up(engine, part) for label, engine in sharing.items()}
            for alike in self._alike(work for work in works.items() if work[1].spans):
                self._pass(alike)

    def _alike(self, works: Iterable[tuple[str, Prefill]]) -> list[dict[str, Prefill]]:
        """Those that leave the same tokens behind: what a policy pins goes on, and others may pin something else."""
        groups: dict[tuple[Propagation, int, bool] | None, dict[str, Prefill]] = {}
        for label, work in works:
            policy, propagation = self._needs[label].policy, self._needs[label].config.propagation
            alike = None if propagation is None else (propagation, policy.num_first, policy.pins_instruction)
            groups.setdefault(alike, {})[label] = work
        return list(groups.values())

    @torch.inference_mode()
    def _pass(self, works: Mapping[str, Prefill]) -> None:
        """One forward pass for all. Who finds too little room reads its prompts by itself, as every engine does."""
        if not works:
            return
        started = time.monotonic()
        batches: dict[str, PrefillBatch] = {}
        try:
            for label, work in works.items():
                engine = self.engines[label]
                batches[label] = PrefillBatch(work.spans, engine.evictions, engine.runner.prefiller.rotary)
            shared = SharedPass(batches)
            logits = self.model.forward(shared)
        except torch.OutOfMemoryError:
            for label, work in works.items():
                if label in batches:
                    batches[label].discard()
                self.engines[label].scheduler.give_up(work.spans)
            return
        common = time.monotonic() - started - shared.spent_s
        for label, work in works.items():
            self._book(label, work, batches[label], logits[shared.rows_of(label)], common + shared.seconds[label])

    def _book(self, label: str, work: Prefill, batch: PrefillBatch, logits: Tensor, seconds: float) -> None:
        """What the pass was to one engine, for which it counts as one of so many seconds."""
        engine = self.engines[label]
        try:
            batch.commit()
        except (OutOfPages, torch.OutOfMemoryError) as error:
            if not isinstance(error, OutOfPages):
                batch.discard()
            engine.scheduler.give_up(work.spans)
            return
        engine.runner.choose(work, [logits])
        engine.answers.extend(work.sequences, engine.runner.prefilled(work, seconds))
        engine.stats.spent(work, seconds)


def _packed(requests: Sequence[Request], token_budget: int) -> int:
    """How many of them, from the first on, one pass reads; at least one."""
    totals = np.cumsum([len(request.token_ids) for request in requests])
    return max(1, int(np.searchsorted(totals, token_budget, side="right")))


def _taken_up(engine: EngineCore, requests: Iterable[Request]) -> Prefill:
    """An engine's part of a pass over prompts that it was idle for; of requests that it refuses, nothing."""
    for request in requests:
        engine.add(request)
    waiting = engine.scheduler.waiting
    sequences = [waiting.popleft() for _ in range(len(waiting))]
    for sequence in sequences:
        sequence.started_at = time.monotonic()
    return Prefill([engine.scheduler.open(sequence) for sequence in sequences])
