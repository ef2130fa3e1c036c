"""Cases as requests to an engine, and answers back: what a suite asks, laid out and decoded as a job would."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from corm_batch.engine.engine import EngineCore
from corm_batch.engine.request import Completion, Request, SamplingParams
from corm_batch.errors import DocumentError
from corm_batch.evaluation.answers import Answered, case_key
from corm_batch.evaluation.base import Case, Encoding, Suite
from corm_batch.text.instruction import instruction_spans
from corm_batch.text.tokenize import PromptTokenizer


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
    """

    label: str
    suite: Suite
    case: Case
    prompt: tuple[int, ...]
    answer_ids: tuple[int, ...] | None = None
    instruction: tuple[range, ...] = ()

    @cached_property
    def key(self) -> str:
        """Says what is asked, token by token: the same in every evaluation."""
        return case_key(self.case.max_new_tokens, self.prompt, self.answer_ids)


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
        SourceError, SpecError: see `Suite.cases`.
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
            yield Asked(label, suite, case, ids, instruction=instruction_spans(tokenizer, prompt))


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
    requests = (
        Request(
            one.key,
            one.prompt,
            SamplingParams(max_new_tokens=one.case.max_new_tokens),
            stop=tokenizer.stop_check(()),
            answer_ids=one.answer_ids,
            instruction=one.instruction,
        )
        for one in ordered
    )
    for done in engine.run(requests):
        yield _answered(done, tokenizer)


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
