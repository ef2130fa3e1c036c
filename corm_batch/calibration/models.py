"""Who answers and scores in a calibration: engines that read each prompt together, or one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import ByteSize

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.ensemble import Ensemble, Need, side_by_side_at_most
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.request import Completion, Request
from corm_batch.errors import CormBatchError, ModelError, SpecError
from corm_batch.evaluation.provenance import free_device_memory
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.full import Full

_CPU_BYTES = 6 << 30
"""Caches side by side on a CPU where the spec sets no engine.kv_memory. What is never written takes none."""
Scored = Mapping[str, Completion]
"""One request under every policy, by label; an error where a policy cannot serve the model."""


class Models(Protocol):
    """The model of a job under any policy."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""

    def full(self) -> EngineCore:
        """An engine with the full cache, idle; whoever has it lets go of it before `score` is called."""

    def score(self, policies: Mapping[str, KVPolicy], requests: Sequence[Request]) -> Iterator[tuple[Request, Scored]]:
        """What the policies make of answers; of each request some policies at a time, or all."""


@dataclass
class Together:
    """A model that is loaded once; where its prefill is exact a prompt is read once for all policies.

    Engines stay as long as the policies do: what was made for them (pages touched, steps captured) serves again.

    Args:
        model: alone on its device.
        config: of the job.
        num_bytes: of all caches.
        max_model_len: see `Models`.
        longest: tokens of the longest prompt and answer that are to come, as far as that is known.
    """

    model: LoadedModel
    config: EngineConfig
    num_bytes: int
    max_model_len: int
    longest: int = 0
    _ensemble: Ensemble | None = None
    _made_for: Mapping[str, KVPolicy] = field(default_factory=dict)

    @classmethod
    def of(cls, engine: EngineCore, longest: int = 0) -> Together:
        """The model of an engine, in the room its pool had."""
        roomy = engine.model.device.type == "cpu" and engine.config.kv_memory is None
        num_bytes = _CPU_BYTES if roomy else engine.pool_bytes
        return cls(engine.model, engine.config, num_bytes, engine.max_model_len, longest)

    def full(self) -> EngineCore:
        """The one that scores beside the others, or one by itself as long as there is none."""
        for label, policy in self._made_for.items():
            if self._ensemble is not None and policy == Full():
                return self._ensemble.engines[label]
        self._forget()
        config = self._config(Full()).model_copy(update={"kv_memory": ByteSize(self.num_bytes)})
        return EngineCore(self.model, Full(), config)

    def score(self, policies: Mapping[str, KVPolicy], requests: Sequence[Request]) -> Iterator[tuple[Request, Scored]]:
        """All policies whose caches fit beside each other behind one pass."""
        lengths = [len(request.token_ids) + request.most_new_tokens for request in requests]
        if not lengths:
            return
        if max(lengths) > self.longest:
            self.longest = max(lengths)
            self._forget()
        needs, refused = {}, dict[str, CormBatchError]()
        for label, policy in policies.items():
            need = Need(policy, self.model, self._config(policy))
            try:
                need.num_bytes(self.longest)
                needs[label] = need
            except (SpecError, ModelError) as error:
                refused[label] = error
        if refused:
            yield from _failing(refused, requests)
        for labels in side_by_side_at_most(needs, self.num_bytes, self.longest):
            yield from zip(
                requests, self._engines({label: needs[label] for label in labels}).run(requests), strict=True
            )

    def _config(self, policy: KVPolicy) -> EngineConfig:
        """Under the full cache no token is left behind: what propagation costs is a policy's loss, too."""
        return self.config.model_copy(update={"propagation": None}) if policy == Full() else self.config

    def _engines(self, needs: Mapping[str, Need]) -> Ensemble:
        """Those that are there, where they have these policies; or else, once these are gone, others."""
        wanted = {label: need.policy for label, need in needs.items()}
        if self._ensemble is None or self._made_for != wanted:
            self._forget()
            self._ensemble, self._made_for = Ensemble(needs, self.num_bytes, self.longest), wanted
        return self._ensemble

    def _forget(self) -> None:
        self._ensemble, self._made_for = None, {}
        free_device_memory()


@dataclass(frozen=True)
class OneByOne:
    """A model that is loaded anew for every policy, as one over several GPUs has to be.

    Args:
        load: the model with an engine of this policy.
        max_model_len: see `Models`.
    """

    load: Callable[[KVPolicy], EngineCore]
    max_model_len: int

    def full(self) -> EngineCore:
        """Loaded for it."""
        free_device_memory()
        return self.load(Full())

    def score(self, policies: Mapping[str, KVPolicy], requests: Sequence[Request]) -> Iterator[tuple[Request, Scored]]:
        """Every prompt once more for every policy."""
        asked = {request.id: request for request in requests}
        for label, policy in policies.items():
            free_device_memory()
            try:
                engine = self.load(policy)
            except (SpecError, ModelError) as error:
                yield from _failing({label: error}, requests)
                continue
            try:
                for done in engine.run(requests):
                    yield asked[done.id], {label: done}
            finally:
                engine.close()
            del engine


def _failing(errors: Mapping[str, CormBatchError], requests: Iterable[Request]) -> Iterator[tuple[Request, Scored]]:
    for request in requests:
        yield request, {label: Completion(request.id, (), "error", error) for label, error in errors.items()}
