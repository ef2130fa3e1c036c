"""set_up(): from a job and what is asked to a race that can begin: documents, policies, a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from corm_batch.calibration.loss import MaxLoss
from corm_batch.calibration.models import Models, OneByOne, Together
from corm_batch.calibration.race import Race
from corm_batch.calibration.run import Plan
from corm_batch.calibration.sample import Drawn, draw
from corm_batch.calibration.section import written_fields
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.policy_check import least_room
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.engine.vocabulary import served
from corm_batch.errors import ModelError, SpecError
from corm_batch.evaluation.answers import AnswerStore
from corm_batch.pipeline.model import model_loader, revision_hash
from corm_batch.pipeline.prompts import ask_nobody
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.full import Full
from corm_batch.report.evaluation import policy_label
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer

_LAYING_OUT_S = 20.0
"""Seconds that may go by while prompts are put together to see how long they are."""


@dataclass(frozen=True)
class Asked:
    """What a user asks for.

    Attributes:
        limit: what may be lost.
        policies: to try, by label, and each one's section of a spec as far as it was given.
        registered: whether those that come with the package, or with plug-ins, are tried too.
        documents: drawn at most.
        seed: of the draw.
        minutes: in which it ends.
        command: noted in the result.
    """

    limit: MaxLoss
    policies: Mapping[str, tuple[KVPolicy, Mapping[str, Any]]]
    registered: bool
    documents: int
    seed: str
    minutes: float
    command: str


def set_up(job: JobSpec, asked: Asked, store: AnswerStore) -> tuple[Plan, Race]:
    """Documents drawn, policies listed, the model loaded.

    Args:
        job, asked: what is asked.
        store: of answers; may hold some.

    Raises:
        SpecError, SourceError: there are no documents, or no policies.
        ModelError: the model cannot be loaded.
    """
    drawn = draw(job, asked.documents, asked.seed)
    if not drawn.documents:
        raise SpecError("source: no usable document")
    full = job.model_copy(update={"policy": Full()})
    model = model_loader(full)()
    tokenizer, engine = model.tokenizer, model.engine
    assert isinstance(engine, EngineCore)
    sizes = ask_nobody(full, drawn.documents, tokenizer, engine.shape, _LAYING_OUT_S)
    tokens = [size for one in sizes for size in one.tokens]
    drawn, known = usual_first(drawn, [sum(one.tokens) for one in sizes])
    shape, max_model_len = engine.shape, engine.max_model_len
    models, shared = _models(full, engine, max(tokens, default=0) + job.task.max_new_tokens)
    del model, engine  # its pages make room
    registered = candidates(round(median(tokens))) if asked.registered and tokens else ()
    policies = {label: policy for label, (policy, _) in asked.policies.items()}
    for policy in registered:
        if policy not in policies.values():
            policies.setdefault(policy_label(policy), policy)
    if not policies:
        raise SpecError("--policy: nothing to try: the job's policy is full; name one, or leave out --only")
    given = {label: fields for label, (_, fields) in asked.policies.items()}
    fields = {label: written_fields(policy.to_spec(), given.get(label, {})) for label, policy in policies.items()}
    room = most_room(policies.values(), shape, tokenizer, max_model_len)
    dtype = getattr(torch, job.model.dtype)
    forms = [job.engine.storing(usual_storage(policy, shape, dtype)).form.name for policy in policies.values()]
    race = Race(job, revision_hash(job.model), policies, models, tokenizer, store, room)
    storage = ", ".join(dict.fromkeys(forms))
    return Plan(asked.limit, drawn, known, fields, asked.minutes, shared, asked.command, storage), race


def usual_first(drawn: Drawn, tokens: Sequence[int]) -> tuple[Drawn, dict[str, int]]:
    """The half that chooses in another order: documents of the usual size first, for most policies are tried on these,
    and a few that are very long would take all the time. The half that confirms stays as it was drawn.

    Args:
        drawn: documents.
        tokens: of their prompts, as far as they were put together, from the first on.

    Returns:
        The documents, and the tokens of each; where they are not known, the usual number.
    """
    usual, documents = max(1, round(median(tokens or [1]))), drawn.documents
    sizes = [max(1, size) for size in tokens] + [usual] * (len(documents) - len(tokens))
    half = len(documents) // 2
    order = sorted(range(half), key=lambda place: abs(sizes[place] - usual))
    known = {document.doc_id: size for document, size in zip(documents, sizes, strict=True)}
    return replace(drawn, documents=[*(documents[place] for place in order), *documents[half:]]), known


def most_room(policies: Iterable[KVPolicy], shape: ModelShape, tokenizer: PromptTokenizer, max_model_len: int) -> int:
    """Tokens that a prompt has to leave free behind it, so that each of these policies can serve it which can serve the
    model at all."""
    rooms = [0]
    for policy in policies:
        with suppress(SpecError, ModelError):  # it says so itself when its turn comes
            rooms.append(least_room(served(policy, shape, lambda: tokenizer.wrapped), max_model_len))
    return max(rooms)


def candidates(num_tokens: int) -> Sequence[KVPolicy]:
    """What registered policies want tried on prompts of about so many tokens."""
    known: Iterable[type[KVPolicy]] = KVPolicy.registered().values()
    return [one for policy in known for one in policy.candidates(num_tokens)]


def _models(job: JobSpec, engine: EngineCore, longest: int) -> tuple[Models, bool]:
    """The model under any policy, and whether one pass over a prompt serves all."""
    if job.engine.tensor_parallel == 1:
        return Together.of(engine, longest), job.engine.prefill == "exact"
    length = engine.max_model_len
    engine.close()
    return OneByOne(_loader(job), length), False


def _loader(job: JobSpec) -> Callable[[KVPolicy], EngineCore]:
    def load(policy: KVPolicy) -> EngineCore:
        # Under the full cache no token is left behind.
        config = job.engine.model_copy(update={"propagation": None}) if policy == Full() else job.engine
        engine = model_loader(job.model_copy(update={"policy": policy, "engine": config}))().engine
        assert isinstance(engine, EngineCore)
        return engine

    return load
