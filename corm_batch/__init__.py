"""corm-batch: ask a language model about every document of an archive, with CORM-compressed key-value caches.

These are the public names; each is imported when first used, so that `import corm_batch` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from corm_batch.budgets.base import Budget, Place
    from corm_batch.data.document import Document
    from corm_batch.data.newest_rows import read_results
    from corm_batch.data.sources.base import Source, Split
    from corm_batch.engine.open import Engine
    from corm_batch.engine.request import Completion, Request, SamplingParams, Scores
    from corm_batch.engine.shared_reading import SharedReading
    from corm_batch.errors import (
        ClusterError,
        CormBatchError,
        DocumentError,
        EngineError,
        ModelError,
        OutputError,
        SourceError,
        SpecError,
    )
    from corm_batch.evaluation.base import Case, Suite
    from corm_batch.ops.pages import NEVER, Column
    from corm_batch.ops.reduction import Reduction
    from corm_batch.pipeline.driver import run_job
    from corm_batch.pipeline.in_python import run
    from corm_batch.policies.base import KVPolicy, ScoringPolicy, Seen
    from corm_batch.policies.needs import Needs
    from corm_batch.propagation.base import Propagation
    from corm_batch.registry import load_plugin
    from corm_batch.spec import JobSpec
    from corm_batch.tasks.base import Prompt, Task, TaskResult

__all__ = [
    "NEVER",
    "Budget",
    "Case",
    "ClusterError",
    "Column",
    "Completion",
    "CormBatchError",
    "Document",
    "DocumentError",
    "Engine",
    "EngineError",
    "JobSpec",
    "KVPolicy",
    "ModelError",
    "Needs",
    "OutputError",
    "Place",
    "Prompt",
    "Propagation",
    "Reduction",
    "Request",
    "SamplingParams",
    "Scores",
    "ScoringPolicy",
    "Seen",
    "SharedReading",
    "Source",
    "SourceError",
    "SpecError",
    "Split",
    "Suite",
    "Task",
    "TaskResult",
    "load_plugin",
    "read_results",
    "run",
    "run_job",
]

_MODULES = {
    "Budget": "budgets.base",
    "Case": "evaluation.base",
    "ClusterError": "errors",
    "Column": "ops.pages",
    "Completion": "engine.request",
    "CormBatchError": "errors",
    "Document": "data.document",
    "DocumentError": "errors",
    "Engine": "engine.open",
    "EngineError": "errors",
    "JobSpec": "spec",
    "KVPolicy": "policies.base",
    "ModelError": "errors",
    "NEVER": "ops.pages",
    "Needs": "policies.needs",
    "OutputError": "errors",
    "Place": "budgets.base",
    "Prompt": "tasks.base",
    "Propagation": "propagation.base",
    "Reduction": "ops.reduction",
    "Request": "engine.request",
    "SamplingParams": "engine.request",
    "Scores": "engine.request",
    "ScoringPolicy": "policies.base",
    "Seen": "policies.base",
    "SharedReading": "engine.shared_reading",
    "Source": "data.sources.base",
    "SourceError": "errors",
    "SpecError": "errors",
    "Split": "data.sources.base",
    "Suite": "evaluation.base",
    "Task": "tasks.base",
    "TaskResult": "tasks.base",
    "load_plugin": "registry",
    "read_results": "data.newest_rows",
    "run": "pipeline.in_python",
    "run_job": "pipeline.driver",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for; `__version__` is that of the installed package."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("corm-batch")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
