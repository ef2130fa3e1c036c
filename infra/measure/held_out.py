"""Questions about held-out texts, asked of the models of jobs in this repository, by their own chat templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from corm_batch import JobSpec
from corm_batch.evaluation.asking import Asked, lay_out
from corm_batch.evaluation.base import Suite
from corm_batch.pipeline.model import load_tokenizer, model_path
from corm_batch.text.tokenize import PromptTokenizer

ROOT = Path(__file__).parents[2]
JOBS = ("jobs/quickstart/job.yaml", "jobs/released/job.yaml")
_TEXTS = ROOT / "infra/training/evaluation"
NEEDLES: Mapping[str, Any] = {"name": "needles", "haystack": str(_TEXTS / "books.parquet")}
SUMMARIES: Mapping[str, Any] = {"name": "summaries", "documents": str(_TEXTS / "summaries.parquet")}


@dataclass(frozen=True)
class AskedModel:
    """The model of a job, run from the repository's root.

    Attributes:
        job: file of the spec.
    """

    job: str

    @cached_property
    def _spec(self) -> JobSpec:
        return JobSpec.load(self.job)

    @property
    def folder(self) -> str:
        """Where it is."""
        return str(Path(model_path(self._spec.model)).resolve())

    @property
    def name(self) -> str:
        """What records call it."""
        return Path(self.folder).name

    @cached_property
    def tokenizer(self) -> PromptTokenizer:
        """Its own, laying prompts out as the job does."""
        return load_tokenizer(self._spec.model, self.folder)

    def cases(self, suite: Mapping[str, Any], lengths: Sequence[int], count: int) -> list[Asked]:
        """Questions, each once: see `Suite.cases`."""
        chosen = Suite.from_spec(suite)
        drawn = lay_out({chosen.name: chosen}, self.tokenizer, lengths, count)
        return list({one.key: one for one in drawn}.values())
