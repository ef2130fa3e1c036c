"""What an evaluation says, as it is written to JSON: every figure names its model, suite, task, cases and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from corm_batch.evaluation.paired import Difference

ALL = "all"
"""The task of a figure over all tasks of its group, the group of one over all groups of its suite."""
NOTE = (
    "Every figure is paired with the full cache's answer to the same case. The floor is the full cache against itself "
    "with other cases beside it in each forward pass: a difference within it says nothing of the policy."
)


class Record(BaseModel):
    """A frozen value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(Record):
    """One cache policy.

    Attributes:
        label: what figures and tables call it.
        policy: every field of it.
        storage: the form that entries were kept in, where the settings name one.
    """

    label: str
    policy: dict[str, Any]
    storage: str | None = None


class Cost(Record):
    """What answers took, over the cases of a figure.

    Attributes:
        kept_ratio: entries stored at the end of an answer over those of an uncompressed cache, mean.
        peak_ratio: bytes of pages held at most over the bytes of an uncompressed cache, both summed over the cases.
        full_peak_ratio: the same of the full cache: its pages hold room that is not used.
    """

    kept_ratio: float
    peak_ratio: float
    full_peak_ratio: float


class Figure(Record):
    """One score of one task under one policy.

    Attributes:
        model: that answered.
        suite, group, task: what was asked; `task` is "all" over all tasks of the group, `group` over all groups.
        position: where the question stood.
        score: its name.
        share: it is 0 or 1 of each case, so that the means are shares.
        candidate: label of the policy.
        policy: every field of it.
        against: the policy's scores (there) against the full cache's (here).
        floor: the full cache's second answers (there) against its first.
        same_text, floor_same_text: pairs with the same text, and how many of the second full answers are
            the first; None where answers were scored.
        failed: cases left out, because one of the answers failed; see `Evaluation.failures`.
        cost: of the policy's answers.
    """

    model: str
    suite: str
    group: str
    task: str
    position: str
    score: str
    share: bool
    candidate: str
    policy: dict[str, Any]
    against: Difference
    floor: Difference
    same_text: int | None
    floor_same_text: int | None
    failed: int
    cost: Cost


class Failure(Record):
    """A case without an answer.

    Attributes:
        candidate: which run; the full cache's second one is "full, again".
        suite, group, task, question: which case.
        prompt_tokens: of it.
        reason: why.
    """

    candidate: str
    suite: str
    group: str
    task: str
    question: str
    prompt_tokens: int
    reason: str


class Provenance(Record):
    """How a result was made.

    Attributes:
        schema_version: of its JSON.
        command: that made it.
        date: when, UTC.
        versions: of libraries.
        device: that answered.
        model: name, hash of the weights, dtype, the form of weights and, where it is named, that of the full cache's
            entries.
    """

    schema_version: str
    command: str
    date: str
    versions: Mapping[str, str | None]
    device: str
    model: Mapping[str, str]


class Evaluation(Provenance):
    """A whole evaluation.

    Attributes:
        engine: its settings.
        candidates: the policies compared.
        suites: by label, every field of each.
        lengths, cases, seed: what was asked for.
        figures: suite by suite, group by group, task by task, score by score, policy by policy.
        failures: cases without an answer.
    """

    schema_version: Literal["corm-batch eval 1"] = "corm-batch eval 1"
    engine: dict[str, Any]
    candidates: list[Candidate]
    suites: dict[str, dict[str, Any]]
    lengths: list[int]
    cases: int
    seed: int | str
    note: str = NOTE
    figures: list[Figure] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)

    def groups(self) -> list[list[Figure]]:
        """The figures of each suite's groups by the suite's first score, over all tasks first, policy by policy."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            mine = found.setdefault((figure.suite, figure.group), [])
            if not mine or figure.score == mine[0].score:
                mine.append(figure)
        return list(found.values())
