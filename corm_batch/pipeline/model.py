"""The model of a spec: where its files are, which weights they are, and loading it. Runs in driver and replica."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from corm_batch.data.filesystem import fetch_folder
from corm_batch.engine.checkpoint import Checkpoint, check_measured, find_checkpoint, load_config
from corm_batch.engine.fp8_format import refuse_quantizing, stored_fp8
from corm_batch.engine.rules import NO_RULES, Rules, end_tokens, read_generation_config
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.support import refuse_beside_groups, refuse_unsupported
from corm_batch.engine.usual_storage import usual_storage
from corm_batch.errors import ModelError, ModelLoadError, SourceError, SpecError, UnsupportedModelError
from corm_batch.pipeline.about_model import about_prompts, about_storage, about_weights
from corm_batch.pipeline.question import about_question
from corm_batch.pipeline.worker import LoadModel, Model
from corm_batch.registry import INITIAL_VERSION
from corm_batch.spec import JobSpec, ModelSection
from corm_batch.storage.base import Storage
from corm_batch.tasks.base import Task
from corm_batch.text.tokenize import PromptTokenizer

_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_SAMPLES = 64


def model_loader(spec: JobSpec) -> LoadModel:
    """What every replica calls to load the model of `spec`."""
    return partial(_load, spec)


def _load(spec: JobSpec) -> Model:
    """The engine and the tokenizer.

    Raises:
        ModelLoadError, UnsupportedModelError, SpecError: see `Engine.from_pretrained`.
    """
    from corm_batch.engine.open import Engine  # here, in an actor: seconds that a driver need not wait

    path = model_path(spec.model)
    tokenizer = load_tokenizer(spec.model, path)
    engine: Any = Engine.from_pretrained(
        path,
        policy=spec.policy,
        dtype=spec.model.dtype,
        device=_device(spec.model),
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
        end_token_ids=tokenizer.end_token_ids,
        apply_generation_config=spec.model.generation_config == "apply",
        weights=spec.model.weights,
        **spec.engine.model_dump() | ({"room_for_scoring": True} if spec.verify and spec.verify.share else {}),
    )
    tokenizer.end_token_ids, tokenizer.stop_strings = engine.model.eos_token_ids, engine.model.rules.stop_strings
    token = engine.shape.storing(spec.engine.sharing).kv_bytes_per_token(getattr(torch, spec.model.dtype))
    return Model(engine, tokenizer, engine.pool_bytes // token, spec.policy.pins_instruction, engine.least_room)


def _device(model: ModelSection) -> str:
    """Where to load `model`; a replica that was given a GPU never falls back to the CPU because that GPU is broken."""
    import ray  # here, in an actor: a plan does without it

    given = model.device == "auto" and ray.is_initialized() and ray.get_gpu_ids()
    return "cuda" if given else model.device


def load_tokenizer(model: ModelSection, path: str) -> PromptTokenizer:
    """The tokenizer in `path`, laying prompts out as the spec says.

    Raises:
        ModelLoadError: see `PromptTokenizer.from_pretrained`.
    """
    where, revision = find_checkpoint(path, model.revision).tokenizer
    return PromptTokenizer.from_pretrained(
        where,
        revision=revision,
        trust_remote_code=model.trust_remote_code,
        document_role=model.document_role,
        system=model.system,
        template_arguments=model.chat_template_kwargs,
    )


@dataclass(frozen=True)
class CheckedModel:
    """A model that was looked at.

    Attributes:
        about: what a user should know, one sentence each.
        version: see `answers_version`.
        shape: of the model.
    """

    about: list[str]
    version: int
    shape: ModelShape

    def usual_storage(self, spec: JobSpec) -> Storage:
        """The form of kept entries where a job of the model names none."""
        return usual_storage(spec.policy, self.shape, getattr(torch, spec.model.dtype))

    def settled(self, spec: JobSpec) -> JobSpec:
        """A job of the model with the form of storage named that its entries are kept in."""
        return spec.storing(self.usual_storage(spec))


def check_model(spec: JobSpec) -> CheckedModel:
    """Look at the model of `spec` without its weights, before anything is started for it.

    Raises:
        ModelLoadError: no model there, something in its folder that cannot be read, or nothing that ends an answer.
        UnsupportedModelError: it has a feature or a setting that the engine would get wrong.
        SpecError: a token id or a layer that the model does not have, or a table that was measured on another one.
    """
    path, task = model_path(spec.model), spec.task
    checkpoint = find_checkpoint(path, spec.model.revision)
    config = load_config(path, spec.model.revision, spec.model.trust_remote_code)
    refuse_unsupported(config, spec.engine.max_model_len, spec.engine.tensor_parallel)
    refuse_quantizing(config, spec.model.weights)
    shape = ModelShape.from_config(config).storing(spec.engine.sharing)
    refuse_beside_groups(shape, spec.engine)
    vocab_size, usual = shape.vocab_size, usual_storage(spec.policy, shape, getattr(torch, spec.model.dtype))
    check_measured(spec.policy, spec.engine, path)
    tokenizer = load_tokenizer(spec.model, path)
    if outside := [token for part in task.parts for token in part.stop_token_ids if token >= vocab_size]:
        raise SpecError(f"task.stop_token_ids: {outside[0]}: the model has the tokens 0..{vocab_size - 1}")
    ends, rules = _ends_and_rules(spec.model, checkpoint, config, tokenizer)
    if problem := next(filter(None, (rules.find_problem(part.sampling) for part in task.parts)), None):
        raise UnsupportedModelError(f"{problem}; task.temperature 0 does without")
    endless = [part for part in task.parts if not (part.stop or part.stop_token_ids or rules.stop_strings)]
    if endless and not any(token < vocab_size for token in ends):
        raise ModelLoadError(
            f"model.name: {spec.model.name!r}: no end token in generation_config.json, config.json, tokenizer or chat "
            "template: no answer would end before task.max_new_tokens; name what ends one with task.stop or "
            "task.stop_token_ids"
        )
    about = [*about_prompts(spec.model, tokenizer, vocab_size), *about_weights(spec, config, checkpoint, rules)]
    about += [*about_question(spec), *about_storage(spec, usual)]
    return CheckedModel(about, _version(task, checkpoint, config, ends, rules), shape)


def refusal_of(spec: JobSpec) -> str | None:
    """Why a run would not start with the model of `spec`; None when it would."""
    try:
        check_model(spec)
    except (ModelError, SpecError) as error:
        return str(error)
    return None


def _ends_and_rules(
    model: ModelSection, checkpoint: Checkpoint, config: Any, tokenizer: PromptTokenizer | None
) -> tuple[frozenset[int], Rules]:
    """What ends an answer, and what its tokens are chosen by; without a tokenizer as far as the configs say.

    Raises:
        ModelLoadError, UnsupportedModelError: see `Rules.read`.
    """
    vocab_size = ModelShape.from_config(config).vocab_size
    generation = read_generation_config(checkpoint)
    ends = end_tokens(vocab_size, generation, config) | (tokenizer.end_token_ids if tokenizer else frozenset())
    if generation is None or model.generation_config == "ignore":
        return ends, NO_RULES
    return ends, Rules.read(generation, vocab_size, ends)


def answers_version(spec: JobSpec, tokenizer: PromptTokenizer | None) -> int:
    """The version of the model section, as plug-ins have one: higher where this model is asked otherwise than in 1.

    Version 1 took no word of how tokens are chosen from generation_config.json, and ended an answer at the tokens that
    one file names: this one, or config.json where it names none. Whether an answer would have ended at one of those
    that came to be known since cannot be told from its row; of a model that has such tokens all are answered again.
    So they are of one stored in fp8, whose products were transformers' then: the version is one higher still.

    Args:
        spec: the job.
        tokenizer: the model's; None where it cannot be loaded.

    Raises:
        ModelLoadError, UnsupportedModelError: what its configs say cannot be read or done.
    """
    path = model_path(spec.model)
    checkpoint = find_checkpoint(path, spec.model.revision)
    config = load_config(path, spec.model.revision, spec.model.trust_remote_code)
    return _version(spec.task, checkpoint, config, *_ends_and_rules(spec.model, checkpoint, config, tokenizer))


def _version(task: Task, checkpoint: Checkpoint, config: Any, ends: frozenset[int], rules: Rules) -> int:
    vocab_size = ModelShape.from_config(config).vocab_size
    known = end_tokens(vocab_size, read_generation_config(checkpoint)) or end_tokens(vocab_size, config)
    without_meaning = {"end_token_ids", "not_for_sampling"}
    drawn = [part for part in task.parts if part.temperature > 0]
    if not drawn:
        without_meaning |= {"top_k", "top_p", "min_p"}
    elif all(part.top_p < 1 for part in drawn):
        without_meaning.add("top_p")
    new = any(token not in known and token < vocab_size for token in ends)
    asked = bool(new or rules.model_dump(exclude_defaults=True, exclude=without_meaning))
    return INITIAL_VERSION + asked + (stored_fp8(config) is not None)


def model_path(model: ModelSection) -> str:
    """What to give to transformers: a hub id, or a local folder, into which an S3 folder is fetched first.

    Raises:
        ModelLoadError: an S3 folder that is not there.
        SourceError: one that cannot be read.
    """
    if model.is_hub_id:
        return model.name
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "corm-batch", "models")
    try:
        return fetch_folder(model.name, cache)
    except SourceError as error:
        if error.__cause__ is not None:  # the store did not answer, which says nothing of the name
            raise SourceError(f"model.name: {error}") from error
        raise ModelLoadError(f"model.name: {error}") from error


def revision_hash(model: ModelSection) -> str:
    """Says which weights the spec means now: the hub's commit, or a hash over a folder's files.

    What is only read by people (hidden files, .md, licences) is left out: a word in a model card changed must not have
    an archive answered anew.

    Raises:
        ModelLoadError: no model there, or its config cannot be read.
    """
    path = model_path(model)
    config = load_config(path, model.revision, model.trust_remote_code)
    checkpoint = find_checkpoint(path, model.revision)
    weights = _identity(checkpoint.weights, checkpoint.revision, config)
    if checkpoint.adapter is None:
        return weights
    own = _identity(checkpoint.adapter, checkpoint.adapter_revision, None)
    return hashlib.sha256(f"{weights}\0{own}".encode()).hexdigest()


def _identity(place: str, revision: str | None, config: Any) -> str:
    """The commit of a hub id, or a hash over a folder's files."""
    if not os.path.isdir(place):
        return getattr(config, "_commit_hash", None) or revision or "main"
    digest = hashlib.sha256()
    for file in sorted(file for file in Path(place).iterdir() if file.is_file() and not _for_people(file.name)):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        _hash_file(file, digest)
    return digest.hexdigest()


def _for_people(name: str) -> bool:
    return name.startswith((".", "LICENSE", "LICENCE", "NOTICE")) or name.endswith(".md")


def _hash_file(file: Path, digest: hashlib._Hash) -> None:
    """Add the file's bytes; of a large one evenly spread samples, for weights that changed have changed everywhere."""
    size = file.stat().st_size
    with file.open("rb") as content:
        if size <= _WHOLE_BYTES:
            digest.update(content.read())
            return
        for sample in range(_SAMPLES):
            content.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(content.read(_SAMPLE_BYTES))
