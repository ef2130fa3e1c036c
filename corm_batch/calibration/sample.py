"""Sample: documents of a job, drawn by hash, and what the full cache answers about each, asked by the job's own task.

What a document is asked depends on its answers where it is read in pieces: summaries are summed up in turn. A policy is
held against the prompts that the full cache came to.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from corm_batch.data.document import Document, digest
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import AnswerError, DocumentError, FileError, ModelError
from corm_batch.evaluation.answers import Answered, case_key
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.pipeline.intake import DocumentIds
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Task
from corm_batch.text.tokenize import PromptTokenizer

_READ, _SPLITS_READ = 20_000, 200
"""Documents, and units of reading, that are looked at: of a larger archive these are drawn first."""


@dataclass(frozen=True)
class Drawn:
    """Documents of a job in an order that says nothing of them.

    Attributes:
        documents: those drawn.
        read: usable ones that were looked at.
        whole: these are all of the source.
    """

    documents: Sequence[Document]
    read: int
    whole: bool


def draw(job: JobSpec, count: int, seed: str) -> Drawn:
    """Up to `count` documents by hash of their ids, whatever has been answered of them.

    Raises:
        SourceError, SpecError: see `JobSpec.splits`.
    """
    splits = job.splits()
    ids, read, chosen = DocumentIds(splits), 0, list[tuple[int, int, Document]]()
    order = random.Random(seed).sample(splits, len(splits))
    for place, split in enumerate(order):
        if place == _SPLITS_READ or read >= _READ:
            return Drawn(_in_order(chosen), read, whole=False)
        try:
            for number, found in enumerate(job.source.read(split, job.task.columns_read)):
                if found.left_out is not None:
                    continue
                document, problem = ids.settle(found, split, number)
                if problem is None and document.text is not None:
                    read += 1
                    key = int.from_bytes(digest(seed, document.doc_id), "big")
                    (heapq.heappush if len(chosen) < count else heapq.heappushpop)(chosen, (-key, read, document))
        except FileError:  # a run names it
            continue
    return Drawn(_in_order(chosen), read, whole=True)


def _in_order(chosen: Sequence[tuple[int, int, Document]]) -> list[Document]:
    return [document for _, _, document in sorted(chosen, key=lambda one: -one[0])]


@dataclass(frozen=True)
class Exam:
    """A document's prompts and the full cache's answers to them.

    Attributes:
        doc_id: the document's.
        requests: what was asked, each with its answer to score; none where there is no answer.
        written: the mean log-probability of each answer's tokens when it was written.
        sampled: answers were drawn.
        problem: why there is no answer; None where there is one.
    """

    doc_id: str
    requests: Sequence[Request] = ()
    written: Sequence[float] = ()
    sampled: bool = False
    problem: str | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer."""
        return max(len(one.token_ids) + one.most_new_tokens for one in self.requests)


def score_key(request: Request) -> str:
    """What is scored, token by token."""
    return _key(request, request.answer_ids)


def _key(request: Request, answer_ids: Sequence[int] | None) -> str:
    """What is asked, and how it is drawn where that is more than how long it may be: rows may differ in that."""
    sampling = request.sampling.model_dump_json(exclude_defaults=True, exclude={"max_new_tokens"})
    key = case_key(request.sampling.max_new_tokens, request.token_ids, answer_ids)
    return key if sampling == "{}" else f"{key} {sampling}"


def examine(
    documents: Sequence[Document],
    task: Task,
    tokenizer: PromptTokenizer,
    max_model_len: int,
    make_engine: Callable[[], EngineCore],
    known: Mapping[str, Answered],
    *,
    pins_instruction: bool = False,
    least_room: int = 0,
) -> tuple[list[Exam], list[Answered]]:
    """What the full cache answers about each document.

    Args:
        documents, task, tokenizer, max_model_len: as in a run.
        make_engine: with the full cache; called once there is something to answer.
        known: answers of the full cache by `case_key`.
        pins_instruction: requests say which of their tokens are not the document's, for a policy that pins these.
        least_room: tokens behind a prompt that some policy needs: texts are cut to leave as many.

    Returns:
        One exam a document, and the answers that were not known.
    """
    answering = _Answering(make_engine, known)

    async def one(document: Document) -> Exam:
        asker = EngineAsker(
            document.doc_id, tokenizer, answering, max_model_len, pins_instruction=pins_instruction,
            least_room=least_room,
        )  # fmt: skip
        try:
            await task.of_row(document).run(document, asker)
        except AnswerError:
            pass  # an answer that is not what it should be is one all the same
        except (DocumentError, ModelError) as error:
            return Exam(document.doc_id, problem=str(error))
        answered = [(request, done) for request, done in asker.answered if done.token_ids]
        scored = [
            replace(request, id=f"{request.id}#score", answer_ids=done.token_ids, stop=None)
            for request, done in answered
        ]
        written = [done.mean_logprob for _, done in answered]
        drawn = any(request.sampling.temperature > 0 for request in scored)
        return Exam(document.doc_id, scored, written, drawn, None if scored else "there is no answer")

    async def all_of_them() -> list[Exam]:
        tasks = [asyncio.ensure_future(one(document)) for document in documents]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)  # who has an answer asks on
            answering.step()
        return [task.result() for task in tasks]

    return asyncio.run(all_of_them()), answering.new


@dataclass
class _Answering:
    """An engine that is stepped between awaits, and asked only what is not known."""

    make_engine: Callable[[], EngineCore]
    known: Mapping[str, Answered]
    new: list[Answered] = field(default_factory=list)
    _engine: EngineCore | None = None
    _waiting: dict[str, tuple[str, asyncio.Future[Completion]]] = field(default_factory=dict)

    def read(self, reading: SharedReading) -> None:
        """Nothing: an exam is about a whole prompt, and so each is read by itself."""

    def close(self, reading: SharedReading) -> None:
        """Nothing."""

    async def answer(self, request: Request) -> Completion:
        request = request.alone
        key = _key(request, None)
        if (found := self.known.get(key)) is not None:
            return Completion(
                request.id, found.token_ids, found.finish_reason,  # type: ignore[arg-type]
                mean_logprob=math.nan if found.mean_logprob is None else found.mean_logprob, memory=found.memory,
            )  # fmt: skip
        if self._engine is None:
            self._engine = self.make_engine()
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = key, future
        self._engine.add(request)
        return await future

    def step(self) -> None:
        for done in self._engine.step() if self._engine is not None and self._engine.has_work else ():
            key, future = self._waiting.pop(done.id)
            if done.error is None:
                self.new.append(
                    Answered(
                        key, "", done.token_ids, done.finish_reason, mean_logprob=done.mean_logprob, memory=done.memory
                    )
                )
            future.set_result(done)
