"""What answers come from: settings as a key to find them by, libraries, device. Knows nothing of what is asked."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from datetime import UTC, datetime
from typing import Any

import torch

from corm_batch.output.settings import AnswerSettings
from corm_batch.spec import JobSpec

_LIBRARIES = ("corm-batch", "torch", "transformers")


def settings_key(job: JobSpec, model_hash: str, *, task: bool, variant: bool = False) -> str:
    """Says under what a job's model answers: model, policy, engine, and the version of this package.

    Args:
        job, model_hash: as `AnswerSettings.of`.
        task: whether the job's task counts, too: it does not where somebody else asks.
        variant: answers of another kind under the same settings.
    """
    told = AnswerSettings.of(job, model_hash).told
    kept = {path: value for path, value in told.items() if task or not path.startswith("task.")}
    content = json.dumps([kept, variant, _version("corm-batch")], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=12).hexdigest()


def provenance(job: JobSpec, model_hash: str, command: str) -> dict[str, Any]:
    """The fields of a `Provenance`: what was run of what, with what, where and now.

    Args:
        job: the spec.
        model_hash: of its weights.
        command: that makes the result.
    """
    model, storage = job.model, storage_name(job)
    forms = {"dtype": model.dtype, "weights": model.weights, **({"storage": storage} if storage else {})}
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}},
        "device": _device_text(model.device),
        "model": {"name": model.name, "hash": model_hash, **forms},
    }


def storage_name(job: JobSpec) -> str | None:
    """Of the form of storage that a job names; None where it names none."""
    return None if job.engine.storage is None else job.engine.storage.name


def _device_text(device: str) -> str:
    """What answers there, of a spec's `model.device`."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"


def free_device_memory() -> None:
    """Give back what an engine held, which is gone by now, before the next one measures how much there is."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
