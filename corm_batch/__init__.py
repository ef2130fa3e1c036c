"""corm-batch: ask a language model about every document of an archive, with CORM-compressed key-value caches.

These are the public names; each is imported when first used, so that `import corm_batch` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corm_batch.data.sources.base import Source
    from corm_batch.engine.engine import Engine
    from corm_batch.engine.request import Completion, Request, SamplingParams
    from corm_batch.errors import CormBatchError
    from corm_batch.output.ledger import read_results
    from corm_batch.pipeline.driver import run_job
    from corm_batch.policies.base import KVPolicy
    from corm_batch.spec import JobSpec
    from corm_batch.tasks.base import Task

__all__ = [
    "Completion",
    "CormBatchError",
    "Engine",
    "JobSpec",
    "KVPolicy",
    "Request",
    "SamplingParams",
    "Source",
    "Task",
    "read_results",
    "run_job",
]

_MODULES = {
    "Completion": "engine.request",
    "CormBatchError": "errors",
    "Engine": "engine.engine",
    "JobSpec": "spec",
    "KVPolicy": "policies.base",
    "Request": "engine.request",
    "SamplingParams": "engine.request",
    "Source": "data.sources.base",
    "Task": "tasks.base",
    "read_results": "output.ledger",
    "run_job": "pipeline.driver",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
