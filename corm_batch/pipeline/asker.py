"""EngineAsker: the model as one document's task sees it, and what the answers cost.

Knows nothing of rows or files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion, Request, SamplingParams, room_left
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import AnswerError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.output.transcript import Transcript
from corm_batch.tasks.base import Answer, Ask, Prompt
from corm_batch.tasks.overflow import at_once
from corm_batch.text.instruction import instruction_spans
from corm_batch.text.spans import common_beginning
from corm_batch.text.tokenize import PromptTokenizer
from corm_batch.text.windows import cut_beginning, cut_windows

_LEAST = 64
"""Tokens below which reading them once is not worth a pass of their own."""
_MERGED = 8  # tokens that two prompts of one text may differ by for where it meets their instructions


class Answering(Protocol):
    """What answers requests: an engine on its thread."""

    async def answer(self, request: Request) -> Completion:
        """The completion of one request."""

    def read(self, reading: SharedReading) -> None:
        """Have a document read for what is asked over it from now on."""

    def close(self, reading: SharedReading) -> None:
        """Nothing more is asked over one."""


class EngineAsker:
    """Implements `corm_batch.tasks.base.Asker` for one document.

    Args:
        doc_id: the document's.
        tokenizer: the model's.
        engine: answers.
        max_model_len: tokens of prompt and answer at most.
        pins_instruction: the policy pins instructions, so that requests have to say which tokens these are.
        least_room: tokens behind a prompt that the policy needs, whatever its answer: texts are cut to leave as many.

    Attributes:
        doc_id: the document's.
        memory: the statistics of every prompt answered so far.
        passes: those of what verified the answers.
        transcript: what the model wrote so far.
    """

    def __init__(
        self,
        doc_id: str,
        tokenizer: PromptTokenizer,
        engine: Answering,
        max_model_len: int,
        *,
        pins_instruction: bool = False,
        least_room: int = 0,
    ) -> None:
        self.doc_id = doc_id
        self._tokenizer = tokenizer
        self._engine = engine
        self._max_model_len = max_model_len
        self._pins_instruction, self._least_room = pins_instruction, least_room
        self._uncompressed = False
        self._asked = 0
        self._answered: dict[str, tuple[Request, Completion]] = {}
        self._started = time.monotonic()
        self.memory: list[MemoryStats] = []
        self.passes: list[MemoryStats] = []
        self.transcript = Transcript()

    def without_eviction(self) -> EngineAsker:
        """One to ask about the same document from the start, with uncompressed caches; its costs come on top."""
        again = EngineAsker(self.doc_id, self._tokenizer, self._engine, self._max_model_len)
        again._uncompressed = True
        again._started, again.memory, again.passes = self._started, self.memory, self.passes
        return again

    @property
    def answered(self) -> list[tuple[Request, Completion]]:
        """Every request with the engine's answer, in the order in which they were asked; each has its whole prompt."""
        return sorted(self._answered.values(), key=lambda pair: int(pair[0].id.rpartition("#")[2]))

    async def ask(
        self, prompt: Prompt, sampling: SamplingParams, stop: Sequence[str] = (), grammar: Grammar | None = None
    ) -> Answer:
        """One answer.

        Raises:
            DocumentError: the prompt does not fit, or the engine refuses it.
            AnswerError: the model wrote nothing, or nothing but its reasoning.
            BrokenEngineError: the engine failed as a whole.
        """
        ask = Ask(prompt, sampling, stop, grammar)
        return await self._answer(ask, await self._request(ask, self._tokenizer.encode(prompt)), self.memory)

    async def ask_all(self, asks: Sequence[Ask]) -> list[Answer | DocumentError]:
        """Several things about one text, all in flight at once. What the prompts begin with alike is read once, if that
        is most of them; else each reads all of its own, and the figures say why.

        Raises:
            BrokenEngineError: the engine failed as a whole.
        """
        found: dict[int, Answer | DocumentError] = {}
        requests: dict[int, Request] = {}
        encoded = self._tokenizer.encode_all([ask.prompt for ask in asks])
        for place, (ask, token_ids) in enumerate(zip(asks, encoded, strict=True)):
            try:
                if isinstance(token_ids, DocumentError):
                    raise token_ids
                requests[place] = await self._request(ask, token_ids)
            except DocumentError as error:
                found[place] = error
        spent: list[MemoryStats] = []
        reading, apart = None, None
        if len(requests) > 1:
            prompts = [one.token_ids for one in requests.values()]
            num_alike = common_beginning(prompts)
            if (apart := _why_apart(num_alike, list(map(len, prompts)))) is None:
                reading = next(iter(requests.values())).beginning(num_alike)
                requests = {place: request.over(reading) for place, request in requests.items()}
                self._engine.read(reading)

        async def one(place: int, request: Request) -> Answer | DocumentError:
            try:
                return await self._answer(asks[place], request, spent)
            except DocumentError as error:
                return error

        try:
            answers = await at_once(one(*each) for each in requests.items())
        finally:  # whatever happens: what has been answered is paid for
            if reading is not None:
                self._engine.close(reading)
                self.memory += [MemoryStats.beside([reading.memory, *spent])] if spent else []
            else:
                self.memory += [replace(one, read_apart=apart) for one in spent]
        found |= dict(zip(requests, answers, strict=True))
        return [found[place] for place in range(len(asks))]

    async def _request(self, ask: Ask, token_ids: Sequence[int]) -> Request:
        """What the engine is asked, the whole prompt in it.

        Raises:
            DocumentError: it does not fit, or cannot be made of another text.
        """
        if room_left(len(token_ids), ask.sampling.max_new_tokens, self._max_model_len) < 0:
            raise DocumentError(
                f"{len(token_ids)} prompt tokens and {ask.sampling.max_new_tokens} for the answer do not fit "
                f"the model's context of {self._max_model_len}"
            )
        self._asked += 1
        number, instruction, grammar = self._asked, None, ask.grammar
        if self._pins_instruction:
            instruction = await asyncio.to_thread(instruction_spans, self._tokenizer, ask.prompt)
        if grammar is not None and (marks := self._tokenizer.reasoning_of(ask.prompt)).is_open:
            grammar = replace(grammar, after=marks.end)
        return Request(
            id=f"{self.doc_id}#{number}",  # the same in every run: it seeds the sampling
            token_ids=token_ids,
            sampling=ask.sampling,
            stop=self._tokenizer.stop_check(ask.stop),
            uncompressed=self._uncompressed,
            instruction=instruction,
            grammar=grammar,
        )

    async def _answer(self, ask: Ask, request: Request, spent: list[MemoryStats]) -> Answer:
        """What the engine says, taken note of; what it took goes to `spent`.

        Raises:
            DocumentError: the engine refuses it.
            AnswerError: the model wrote nothing, or nothing but its reasoning.
            BrokenEngineError: the engine failed as a whole.
        """
        completion = await self._engine.answer(request)
        if completion.error is not None:
            raise completion.error
        self._answered[request.id] = request.alone, completion
        spent.append(completion.memory)
        stop, end_ids = ask.stop, ask.sampling.stop_token_ids
        text = self._tokenizer.decode(completion.token_ids, stop, end_ids)
        marks = self._tokenizer.reasoning_of(ask.prompt)
        reasoning, answer = marks.part(completion.token_ids, lambda ids: self._tokenizer.decode(ids, stop, end_ids))
        self.transcript.add(text, reasoning, completion.finish_reason, completion.token_ids)
        if answer is None or not answer.strip():
            what = f"the model wrote nothing but its reasoning, which {marks.end} ends"
            cut = " (cut off at task.max_new_tokens)" if completion.finish_reason == "length" else ""
            what = "the answer is empty" if answer is not None else what
            raise AnswerError(f"{what}{cut}", finish_reason=completion.finish_reason)
        told = None if completion.logprobs is None else self._tokenizer.told(completion.logprobs)
        return Answer(
            answer, completion.finish_reason, completion.mean_logprob, told, prompt_tokens=request.num_prompt_tokens
        )

    def spent(self) -> MemoryStats:
        """What the document has cost so far, all its prompts together, and the room that verifying them took."""
        memory = MemoryStats.total(self.memory)
        transient = max(one.kv_bytes_transient for one in (memory, *self.passes))
        return replace(memory, kv_bytes_transient=transient, elapsed_s=time.monotonic() - self._started)

    def fits(self, prompts: Sequence[Prompt], max_new_tokens: int) -> bool:
        """Whether each of the prompts fits the model's context, with its answer.

        Raises:
            DocumentError: one cannot be laid out.
        """
        for token_ids in self._tokenizer.encode_all(prompts):
            if isinstance(token_ids, DocumentError):
                raise token_ids
            if self._room(token_ids, max_new_tokens) < 0:
                return False
        return True

    def windows(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> list[str]:
        """Cut `text` into consecutive pieces, each of which fits when put through any of `prompts`.

        Raises:
            DocumentError: an instruction alone fills the context.
        """
        room, fits = self._tightest(prompts, max_new_tokens)
        return cut_windows(text, self._tokenizer.token_ends(text), room, fits)

    def truncate(self, text: str, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int) -> str:
        """The longest beginning of `text` that fits when put through any of `prompts`.

        Raises:
            DocumentError: an instruction alone fills the context.
        """
        room, fits = self._tightest(prompts, max_new_tokens)
        beginning = cut_beginning(text, self._tokenizer.token_ends(text), room, fits)
        self.transcript.truncated |= len(beginning) < len(text)
        return beginning

    def _tightest(
        self, prompts: Sequence[Callable[[str], Prompt]], max_new_tokens: int
    ) -> tuple[int, Callable[[str], bool]]:
        """Tokens that the longest of `prompts` leaves for a text, and whether a text fits, which the longest tell."""
        rooms = [self._room(self._tokenizer.encode(prompt("")), max_new_tokens) for prompt in prompts]
        room = min(rooms)
        longest = [prompt for prompt, left in zip(prompts, rooms, strict=True) if left < room + _MERGED]
        return room, lambda piece: self.fits([prompt(piece) for prompt in longest], max_new_tokens)

    def _room(self, token_ids: Sequence[int], max_new_tokens: int) -> int:
        """Tokens of the context that are left beside this prompt and its answer, or what is read behind it."""
        return room_left(len(token_ids), max(max_new_tokens, self._least_room), self._max_model_len)


def _why_apart(num_alike: int, lengths: Sequence[int]) -> str | None:
    """Why prompts that begin with so many tokens alike are not to share a reading of these; None when they are."""
    if num_alike >= max(_LEAST, min(lengths) / 2):
        return None
    return (
        f"the {len(lengths)} prompts, of {min(lengths)} tokens and more, begin with {num_alike} tokens alike; to be "
        f"read once these must be {_LEAST} or more and half of the shortest: does the template put the text first?"
    )
