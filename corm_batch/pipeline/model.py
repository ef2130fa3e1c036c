"""The model of a spec: where its files are, which weights they are, and loading it. Runs in driver and replica."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import torch

from corm_batch.data.filesystem import fetch_folder
from corm_batch.engine.shape import load_config
from corm_batch.errors import ModelLoadError, SourceError
from corm_batch.pipeline.worker import LoadModel, Model
from corm_batch.spec import JobSpec, ModelSection
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
    from corm_batch.engine.engine import Engine  # here, in an actor: seconds that a driver need not wait

    path = model_path(spec.model)
    tokenizer = load_tokenizer(spec.model, path)
    engine = Engine.from_pretrained(
        path,
        policy=spec.policy,
        dtype=spec.model.dtype,
        device=_device(spec.model),
        revision=spec.model.revision,
        trust_remote_code=spec.model.trust_remote_code,
        **spec.engine.model_dump(),
    )
    bytes_per_token = engine.shape.kv_bytes_per_token(getattr(torch, spec.model.dtype))
    return Model(engine=engine, tokenizer=tokenizer, pool_tokens=engine.pool_bytes // bytes_per_token)


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
    return PromptTokenizer.from_pretrained(
        path,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        document_role=model.document_role,
        system=model.system,
    )


def model_path(model: ModelSection) -> str:
    """What to give to transformers: a hub id, or a local folder, into which an S3 folder is fetched first.

    Raises:
        ModelLoadError: an S3 folder that cannot be read.
    """
    if model.is_hub_id:
        return model.name
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "corm-batch", "models")
    try:
        return fetch_folder(model.name, cache)
    except SourceError as error:
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
    if model.is_hub_id:
        return getattr(config, "_commit_hash", None) or model.revision or "main"
    digest = hashlib.sha256()
    for file in sorted(file for file in Path(path).iterdir() if file.is_file() and not _for_people(file.name)):
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
