"""What a calibration says, as it is written to JSON: every loss names its documents and what it may be over all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from corm_batch.evaluation.result import Provenance, Record

NOTE = (
    "Loss: by how much the perplexity of the full cache's own answers rises under a policy that is given their tokens "
    "one by one: of each document over its tokens, then the mean over documents. An upper bound holds with 95 % "
    "confidence for documents like these; those of finalists hold together, on documents that did not choose them."
)
State = Literal["chosen", "within", "above", "not confirmed", "dropped", "keeps all", "failed", "full cache"]


class Loss(Record):
    """Nats a token, over documents.

    Attributes:
        documents: how many.
        mean: of them.
        low, high: what it may be over all; each bound holds by itself.
    """

    documents: int
    mean: float
    low: float
    high: float


class Tried(Record):
    """What became of one policy.

    Attributes:
        label: what it is called.
        policy: its section of a spec.
        state: chosen; within the limit, with more bytes; above it; not confirmed, for want of time; dropped on the way;
            keeps all: it frees nothing; failed; or the full cache itself.
        chosen_on: on documents that chose among policies; None where it failed.
        held_out: of a finalist, on documents that did not.
        changed, compared: of all these documents, those that would have been answered otherwise; None where answers
            are drawn. Of a finalist on the held-out ones alone.
        changed_at_most: the share of all that this may be, with 95 % confidence.
        peak_ratio: bytes of pages held at most over those of an uncompressed cache.
        documents_per_hour: of one replica here, so many side by side as there were.
        failure: why it failed.
    """

    label: str
    policy: Mapping[str, Any]
    state: State
    chosen_on: Loss | None = None
    held_out: Loss | None = None
    changed: int | None = None
    compared: int = 0
    changed_at_most: float | None = None
    peak_ratio: float | None = None
    documents_per_hour: float | None = None
    failure: str | None = None

    @property
    def loss(self) -> Loss | None:
        """The one that says most."""
        return self.held_out or self.chosen_on


class Calibration(Provenance):
    """A whole calibration.

    Attributes:
        task: what was asked.
        storage: in what form entries were kept under the policies.
        max_loss: as it was given; `limit`: the same in nats a token.
        read, whole: usable documents that were looked at to draw from, and whether these are all.
        chosen_on, held_out: documents that chose, and that confirmed.
        prompts, prompt_tokens: about them, and tokens of a prompt, median.
        unanswered: drawn documents without an answer.
        reasons: why, the first few.
        shared_pass: whether one pass over a prompt served all policies.
        minutes: that it was given; `seconds` that it took.
        tried: the full cache, then every policy.
        chosen: label of the one that meets the limit with the fewest bytes; None where none does.
        best: of the finalist that loses least where none does.
    """

    schema_version: Literal["corm-batch calibrate 1"] = "corm-batch calibrate 1"
    task: Mapping[str, Any]
    storage: str = "model"
    max_loss: str
    limit: float
    read: int
    whole: bool
    chosen_on: int
    held_out: int
    prompts: int
    prompt_tokens: int
    unanswered: int
    reasons: list[str]
    shared_pass: bool
    minutes: float
    seconds: float
    tried: list[Tried]
    chosen: str | None
    best: str | None
    note: str = NOTE

    def of(self, label: str | None) -> Tried | None:
        """A policy by its label."""
        return next((one for one in self.tried if one.label == label), None)
