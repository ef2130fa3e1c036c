"""Prompts of a job without a model: its task runs as in a replica, and an engine that only counts answers it.

The texts are cut, laid out and tokenized by the very code of a run. What depends on answers (the summaries of a long
document are summed up in turn) is built from answers of the greatest length.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from corm_batch.data.document import Document
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.pins import find_pin_problem, num_pins
from corm_batch.engine.policy_check import least_room
from corm_batch.engine.request import Completion, Request
from corm_batch.engine.shape import ModelShape
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.engine.vocabulary import served
from corm_batch.errors import AnswerError, DocumentError, ModelError
from corm_batch.pipeline.asker import EngineAsker
from corm_batch.policies.base import KVPolicy
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer

_QUOTED = re.compile(r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*\"""")
_NUMBER = re.compile("[0-9]+(?:[.,][0-9]+)*")
_CHARS_PER_TOKEN = 4.0  # English text, when there is no tokenizer to ask


class Size(NamedTuple):
    """Tokens of one prompt.

    Attributes:
        read: by it; what several read together counts with the first of them.
        shared: of a reading that it is asked over and that counts with another.
        compressed: of the text that the policy compresses when this is read: of a whole prompt, or of the reading that
            counts with it; 0 of the others, all of which count as an answer's.
    """

    read: int
    shared: int
    compressed: int

    @property
    def whole(self) -> int:
        """The prompt's, read or not."""
        return self.read + self.shared


@dataclass
class Asked:
    """What would be asked about one document.

    Attributes:
        sizes: of each prompt.
        held: tokens of each piece at its end: of a prompt with its answer, or of a reading with all over it.
        first: token ids of the first one; None where there is none.
        whole: tokens of its first prompt before anything was cut; 0 where there is none.
        too_long: it does not fit the context, and `task.overflow` says what becomes of it.
        pins: tokens of each prompt that are pinned.
        from_answers: how many of the prompts hold answers to earlier ones.
        refusal: why nothing is asked about it, or not all; None where all is.
    """

    sizes: list[Size] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    pins: list[int] = field(default_factory=list)
    first: Sequence[int] | None = None
    whole: int = 0
    too_long: bool = False
    from_answers: int = 0
    refusal: str | None = None

    @property
    def tokens(self) -> list[int]:
        """What each prompt reads."""
        return [size.read for size in self.sizes]

    @property
    def most_held(self) -> int:
        """Tokens of the largest piece at its end; 0 where nothing is asked."""
        return max(self.held, default=0)

    def tokens_verified(self, max_new_tokens: int) -> int:
        """What passes over every prompt with its answer would read: each is whole, whatever was shared."""
        return sum(size.whole + max_new_tokens for size in self.sizes)


class _CountingEngine:
    """Answers every request with as many tokens as it may, those its prompt begins with, unless its policy cannot."""

    def __init__(self, policy: KVPolicy, shape: ModelShape) -> None:
        self.asked = Asked()
        self._policy, self._shape = policy, shape
        self._answered = False
        self._held: dict[str, int] = {}

    def read(self, reading: SharedReading) -> None:
        self._held[reading.id] = 0

    def close(self, reading: SharedReading) -> None:
        self.asked.held.append(self._held.pop(reading.id))

    async def answer(self, request: Request) -> Completion:
        asked, whole = self.asked, request.alone.token_ids
        asked.first = whole if asked.first is None else asked.first
        problem = find_pin_problem(self._policy, request, self._shape.num_layers, self._shape.num_kv_heads)
        if problem is not None:
            asked.refusal = str(problem)
            return Completion(request.id, (), "error", problem)
        asked.sizes.append(self._count(request))
        asked.pins.append(num_pins(self._policy, request))
        asked.from_answers += self._answered
        await asyncio.sleep(0)  # until all that are asked at once are here
        self._answered = True
        answer = tuple(whole[: request.sampling.max_new_tokens])
        memory = MemoryStats(prompt_tokens=asked.sizes[-1].read, output_tokens=len(answer))
        return Completion(request.id, answer, "length", memory=memory)

    def _count(self, request: Request) -> Size:
        """A prompt's tokens; what a piece holds at its end is added up."""
        own, new, reading = len(request.token_ids), request.sampling.max_new_tokens, request.reading
        if reading is None:
            self.asked.held.append(own + new)
            return Size(own, 0, own)
        before, shared = self._held[reading.id], len(reading.token_ids)
        self._held[reading.id] = (before or shared) + own + new
        return Size(own, shared, 0) if before else Size(shared + own, 0, shared)


class _WatchingAsker(EngineAsker):
    """Notes whether the first thing to ask fits: that is the whole document."""

    def __init__(
        self, document: Document, tokenizer: PromptTokenizer, engine: _CountingEngine, limit: int, **fields: Any
    ) -> None:
        super().__init__(document.doc_id, tokenizer, engine, limit, **fields)
        self._asked_about = engine.asked

    def fits(self, prompts: Sequence[Prompt], max_new_tokens: int) -> bool:
        found = super().fits(prompts, max_new_tokens)
        if not self._asked_about.whole:
            self._asked_about.whole = len(self._tokenizer.encode(prompts[0]))
            self._asked_about.too_long = not found
        return found


def ask_nobody(
    spec: JobSpec, documents: Sequence[Document], tokenizer: PromptTokenizer, shape: ModelShape, limit_s: float
) -> list[Asked]:
    """What a job's task would ask about each document, in order; those it has not come to in `limit_s` seconds are left
    out. The first one is not: what it asks, or why nothing, is known in any case.

    Args:
        spec: the job, whose policy says what is pinned of a prompt, and whether that can stay.
        documents: to ask about.
        tokenizer, shape: of its model.
        limit_s: seconds.

    Raises:
        SpecError, ModelLoadError: the policy cannot serve the model; see `served`.
    """
    shape, task = shape.storing(spec.engine.sharing), spec.task.asking_once()
    max_model_len = shape.context(spec.engine.max_model_len)

    room = least_room(served(spec.policy, shape, lambda: tokenizer.wrapped), max_model_len)

    async def ask(document: Document) -> Asked:
        engine = _CountingEngine(spec.policy, shape)
        asker = _WatchingAsker(
            document, tokenizer, engine, max_model_len, pins_instruction=spec.policy.pins_instruction, least_room=room
        )
        try:
            await task.of_row(document).run(document, asker)
        except AnswerError:
            pass  # most often the answer is not what it should be
        except (DocumentError, ModelError) as error:
            if engine.asked.first is None:  # else it is about an answer that nobody gave
                engine.asked.refusal = str(error)
        return engine.asked

    async def ask_all() -> list[Asked]:
        asked = list[Asked]()
        try:
            async with asyncio.timeout(limit_s):
                for document in documents:
                    asked.append(await ask(document))
                    await asyncio.sleep(0)  # where the time that is over is noticed
        except TimeoutError:
            if not asked:
                asked.append(Asked(refusal=f"putting its prompts together takes more than {limit_s:.0f} s"))
        return asked

    return asyncio.run(ask_all())


@dataclass(frozen=True)
class Refusal:
    """Documents that the task would ask nothing about for one reason: how many, and which was the first and where."""

    reason: str
    documents: int
    doc_id: str
    origin: str


class Refusals:
    """Why nothing is asked about some documents; reasons that differ in numbers and quoted values only are one."""

    def __init__(self) -> None:
        self._found: dict[str, Refusal] = {}

    def add(self, document: Document, reason: str) -> None:
        """One of which nothing is asked."""
        reason = reason.removeprefix(f"{document.origin}: ")
        kind = _NUMBER.sub("0", _QUOTED.sub("", reason.replace(document.origin, "")))
        first = self._found.get(kind, Refusal(reason, 0, document.doc_id, document.origin))
        self._found[kind] = replace(first, documents=first.documents + 1)

    def sorted(self) -> tuple[Refusal, ...]:
        """All reasons, those of most documents first."""
        return tuple(sorted(self._found.values(), key=lambda refusal: -refusal.documents))


@dataclass(frozen=True)
class PromptSizes:
    """Of every document its prompts, the tokens that are read in all, those that verifying every answer would read,
    those of its largest piece at its end, and whether it is too long."""

    prompts: np.ndarray
    tokens: np.ndarray
    verified: np.ndarray
    held: np.ndarray
    too_long: np.ndarray


def prompt_sizes(
    chars: Sequence[int], stride: int, asked: Sequence[Asked], max_model_len: int, max_new_tokens: int
) -> PromptSizes:
    """Sizes of the prompts about documents of so many characters.

    Args:
        chars: of each document.
        stride, asked: what would be asked about every `stride`-th of them, or of these the first, which counts as it
            is; that of the others is estimated by a line through these, from characters to tokens. Where nothing is
            known a document is one prompt of its text alone.
        max_model_len, max_new_tokens: of the context, and of an answer.
    """
    lengths, room = np.array(chars, dtype=np.float64), max_model_len - max_new_tokens
    if not asked:
        whole, ones = np.ceil(lengths / _CHARS_PER_TOKEN).astype(np.int64), np.ones(len(chars), np.int64)
        held = np.minimum(whole + max_new_tokens, max_model_len)
        return PromptSizes(ones, whole, whole + max_new_tokens, held, whole > room)
    places = np.arange(0, len(chars), stride)[: len(asked)]
    known, wholes = lengths[places], np.array([one.whole for one in asked], dtype=np.float64)
    slope, start = np.polyfit(known, wholes, 1) if len(np.unique(known)) > 1 else (0.0, wholes.mean())
    whole = np.maximum(1.0, start + slope * lengths)
    too_long, held = whole > room, np.minimum(whole + max_new_tokens, max_model_len)
    prompts, tokens, verified = np.ones(len(chars)), whole.copy(), whole + max_new_tokens
    for long in (False, True):
        mine, alike = too_long == long, [one for one in asked if one.too_long == long]
        if total := sum(one.whole for one in alike):
            tokens[mine] *= sum(sum(one.tokens) for one in alike) / total
            verified[mine] = whole[mine] * sum(one.tokens_verified(max_new_tokens) for one in alike) / total
            prompts[mine] *= sum(len(one.sizes) for one in alike) / len(alike)
            beside = [one.most_held - min(one.whole + max_new_tokens, max_model_len) for one in alike]
            held[mine] += sum(beside) / len(beside)
    prompts[places] = [len(one.sizes) for one in asked]
    tokens[places] = [sum(one.tokens) for one in asked]
    verified[places] = [one.tokens_verified(max_new_tokens) for one in asked]
    held[places] = [one.most_held for one in asked]
    too_long[places] = [one.too_long for one in asked]
    tokens, verified, held = (values.round().astype(np.int64) for values in (tokens, verified, held))
    return PromptSizes(prompts, tokens, verified, held, too_long)
