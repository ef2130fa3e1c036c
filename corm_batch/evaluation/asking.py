"""Cases as requests to an engine, and answers back: what a suite asks, laid out and decoded as a job would."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from corm_batch.engine.engine import EngineCore
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion, Request, SamplingParams
from corm_batch.engine.shared_reading import SharedReading
from corm_batch.errors import DocumentError, SpecError
from corm_batch.evaluation.answers import Answered, case_key
from corm_batch.evaluation.base import Case, Encoding, Suite
from corm_batch.tasks.base import ANOTHER_TEXT, Prompt
from corm_batch.text.instruction import instruction_spans
from corm_batch.text.spans import common_beginning
from corm_batch.text.tokenize import PromptTokenizer

_OTHER_QUESTIONS = ("x", "0")
"""Of which every question begins otherwise than one at least."""


@dataclass(frozen=True)
class _Ids:
    ids: list[int]


@dataclass(frozen=True)
class SuiteTokenizer:
    """A job's tokenizer as suites use one: without chat template and special tokens."""

    tokenizer: PromptTokenizer

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoding:
        """Text as tokens."""
        return _Ids(self.tokenizer.text_ids(text))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Tokens as text."""
        return self.tokenizer.spelled(ids)

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        return self.tokenizer.vocabulary


@dataclass(frozen=True)
class Asked:
    """A case of a suite and its prompt.

    Attributes:
        label: of the suite, as figures name it.
        suite, case: what is asked.
        prompt: token ids, up to where the answer starts.
        answer_ids: an answer to score; None where the model answers.
        instruction: which tokens of the prompt are not the document's.
        num_read_first: tokens of the prompt that are read, and compressed, before the others are known; 0 where it is
            read whole.
    """

    label: str
    suite: Suite
    case: Case
    prompt: tuple[int, ...]
    answer_ids: tuple[int, ...] | None = None
    instruction: tuple[range, ...] = ()
    num_read_first: int = 0

    @cached_property
    def key(self) -> str:
        """Says what is asked, token by token: the same in every evaluation."""
        return case_key(self.case.max_new_tokens, self.prompt, self.answer_ids, self.num_read_first)


def lay_out(
    suites: Mapping[str, Suite],
    tokenizer: PromptTokenizer,
    lengths: Sequence[int],
    count: int,
    seed: int | str = "evaluation",
    texts: Sequence[str] = (),
) -> Iterator[Asked]:
    """The cases of every suite, by label, each with its prompt; see `Suite.cases`.

    Raises:
        SourceError, SpecError: see `Suite.cases`; or a question cannot be hidden that is to be.
    """
    plain = SuiteTokenizer(tokenizer)
    for label, suite in suites.items():
        for case in suite.cases(plain, lengths, count, seed, texts):
            if case.given:
                begun, given = tokenizer.text_ids(case.document, begin=True), tokenizer.text_ids(case.given)
                yield Asked(label, suite, case, tuple(begun), tuple(given))
                continue
            prefix = tokenizer.text_ids(case.prefix) if case.prefix else []
            prompt = suite.prompt(case)
            ids = *tokenizer.encode(prompt), *prefix
            spans, hides = instruction_spans(tokenizer, prompt), suite.position == "hidden"
            num_read_first = _before_question(tokenizer, prompt, label) if hides else 0
            yield Asked(label, suite, case, ids, instruction=spans, num_read_first=num_read_first)


def _before_question(tokenizer: PromptTokenizer, prompt: Prompt, label: str) -> int:
    """Tokens that a prompt begins with whatever is asked about its document, which is among them.

    Raises:
        SpecError: the document comes behind the question, or has it in it.
    """
    where = f"suite {label}: position: hidden"
    if not prompt.instruction:
        raise SpecError(f"{where}: there is no question to hide, or the document has it in it: leave position out")
    ids = tokenizer.encode(prompt)
    asked_otherwise = [tokenizer.encode(Prompt(prompt.text, other)) for other in _OTHER_QUESTIONS]
    found = common_beginning([ids, *asked_otherwise])
    if found <= common_beginning([ids, tokenizer.encode(Prompt(ANOTHER_TEXT, prompt.instruction))]):
        raise SpecError(
            f"{where}: the model's chat template puts the question before the document, which cannot be read without "
            "it: leave position out"
        )
    return found


def answer(
    engine: EngineCore, tokenizer: PromptTokenizer, asked: Iterable[Asked], *, shortest_first: bool = False
) -> Iterator[Answered]:
    """What an engine answers to each, as they finish; of a case that cannot be answered, why not.

    Args:
        engine: of a job's model.
        tokenizer: the same model's, which knows what ends an answer.
        asked: of any order, each key once.
        shortest_first: begin with the shortest prompts instead of the longest: other cases share each forward pass.
    """
    ordered = sorted(asked, key=lambda one: (len(one.prompt), one.key), reverse=not shortest_first)
    readings: dict[str, SharedReading] = {}

    def requests() -> Iterator[Request]:
        for one in ordered:
            yield _request(one, engine, tokenizer, readings)
            if one.key in readings:
                readings[one.key].close()

    for done in engine.run(requests()):
        if (reading := readings.pop(done.id, None)) is not None:
            done = replace(done, memory=MemoryStats.beside([reading.memory, done.memory]))
        yield _answered(done, tokenizer)


def _request(
    asked: Asked, engine: EngineCore, tokenizer: PromptTokenizer, readings: dict[str, SharedReading]
) -> Request:
    """What the engine is asked, by itself or over a reading of its own, which is noted in `readings`."""
    request = Request(
        asked.key,
        asked.prompt,
        SamplingParams(max_new_tokens=asked.case.max_new_tokens),
        stop=tokenizer.stop_check(()),
        answer_ids=asked.answer_ids,
        instruction=asked.instruction,
    )
    if not asked.num_read_first:
        return request
    readings[asked.key] = reading = request.beginning(asked.num_read_first)
    engine.open_reading(reading)
    return request.over(reading)


def _answered(done: Completion, tokenizer: PromptTokenizer) -> Answered:
    if done.error is not None:
        if not isinstance(done.error, DocumentError):
            raise done.error
        return Answered(done.id, error=str(done.error))
    if done.scores is not None:
        if -math.inf in done.scores.logprobs:
            return Answered(done.id, error="a rule of the model's generation_config.json forbids a token of the text")
        return Answered.scored(done.id, done)
    _, text = tokenizer.reasoning.part(done.token_ids, tokenizer.decode)
    return Answered(done.id, text or "", done.token_ids, done.finish_reason, memory=done.memory)
