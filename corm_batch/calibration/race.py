"""Race: the answers to the documents so far, and what every policy loses on them; scored once, kept in a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from corm_batch.audit.config import MIN_GAP
from corm_batch.calibration.contest import FULL
from corm_batch.calibration.loss import DocumentLoss, document_loss, noise
from corm_batch.calibration.models import Models
from corm_batch.calibration.sample import Exam, examine, score_key
from corm_batch.data.document import Document
from corm_batch.errors import DocumentError, ModelError, SpecError
from corm_batch.evaluation.answers import Answered, AnswerStore
from corm_batch.evaluation.provenance import settings_key
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.full import Full
from corm_batch.spec import JobSpec
from corm_batch.text.tokenize import PromptTokenizer


@dataclass
class Race:
    """Policies on the documents of a job.

    Args:
        job: whose documents, task and settings.
        model_hash: which weights.
        policies: by label, without the full cache.
        models: who answers.
        tokenizer: of the model.
        store: what is known already; grows.
        least_room: tokens behind a prompt that one of the policies needs, the most of them.

    Attributes:
        exams: of the documents so far.
        losses: by label and document; those of the full cache are the noise of its arithmetic.
        failed: why a policy is out of the race.
    """

    job: JobSpec
    model_hash: str
    policies: Mapping[str, KVPolicy]
    models: Models
    tokenizer: PromptTokenizer
    store: AnswerStore
    least_room: int = 0
    exams: dict[str, Exam] = field(default_factory=dict)
    losses: dict[str, dict[str, DocumentLoss]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)

    def run(self, documents: Sequence[Document], labels: Sequence[str]) -> list[str]:
        """Have documents answered by the full cache, and the answers scored under these policies.

        Returns:
            Ids of the documents that have an answer.
        """
        exams = self._examine(documents)
        usable = [exam for exam in exams if exam.problem is None]
        self._score(usable, [FULL, *labels])
        for exam in usable:
            self._measure(exam, labels)
        return [exam.doc_id for exam in usable if exam.doc_id in self.losses.get(FULL, {})]

    def of(self, label: str, documents: Sequence[str]) -> list[DocumentLoss]:
        """What a policy lost on these documents, as far as it was tried on them."""
        known = self.losses.get(label, {})
        return [known[doc_id] for doc_id in documents if doc_id in known]

    def _examine(self, documents: Sequence[Document]) -> list[Exam]:
        key = self._key(FULL)
        exams, new = examine(
            documents, self.job.task, self.tokenizer, self.models.max_model_len, self.models.full, self.store.of(key),
            pins_instruction=any(policy.pins_instruction for policy in self.policies.values()),
            least_room=self.least_room,
        )  # fmt: skip
        self.store.add(key, new)
        self.exams.update({exam.doc_id: exam for exam in exams})
        return exams

    def _score(self, exams: Sequence[Exam], labels: Sequence[str]) -> None:
        """Whatever the store does not hold yet."""
        requests = [request for exam in exams for request in exam.requests]
        known = {label: self.store.of(self._key(label)) for label in labels}
        missing = {
            label: [request for request in requests if score_key(request) not in known[label]] for label in labels
        }
        asked = {request.id: request for lacking in missing.values() for request in lacking}
        policies = {label: self._policy(label) for label, lacking in missing.items() if lacking}
        try:
            for request, done in self.models.score(policies, list(asked.values())):
                for label, completion in done.items():
                    if completion.error is None:
                        self.store.note(self._key(label), Answered.scored(score_key(request), completion))
                    else:
                        self._note(label, completion.error)
        finally:
            self.store.flush()

    def _measure(self, exam: Exam, labels: Sequence[str]) -> None:
        """Losses on one document, where the full cache's answers could be scored."""
        sides = {}
        for label in (FULL, *labels):
            known = self.store.of(self._key(label))
            keys = [score_key(request) for request in exam.requests]
            if all(key in known for key in keys):
                sides[label] = [known[key] for key in keys]
        if FULL not in sides:
            return
        gap = MIN_GAP[self.job.model.dtype]
        for label, answers in sides.items():
            try:
                found = document_loss(sides[FULL], answers, gap, sampled=exam.sampled)
            except DocumentError as error:
                if label == FULL:
                    return
                self._note(label, error)
            else:
                if label == FULL:
                    found = replace(found, nats=noise(answers, exam.written))
                self.losses.setdefault(label, {})[exam.doc_id] = found

    def _note(self, label: str, error: Exception) -> None:
        """A policy that could not score what the full cache could is out; the full cache only lacks a document."""
        if not isinstance(error, DocumentError | SpecError | ModelError):
            raise error
        if label != FULL:
            self.failed.setdefault(label, str(error))

    def _policy(self, label: str) -> KVPolicy:
        return Full() if label == FULL else self.policies[label]

    def _key(self, label: str) -> str:
        """By what the store knows a policy's answers."""
        if label not in self._keys:
            job = self.job.model_copy(update={"policy": self._policy(label)})
            self._keys[label] = settings_key(job, self.model_hash, task=True)
        return self._keys[label]
