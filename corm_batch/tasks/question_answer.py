"""Question answering. Knows nothing of tokens: what fits is the asker's to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from corm_batch.data.document import Document
from corm_batch.data.schema import column
from corm_batch.errors import AnswerError, DocumentError, GrammarError
from corm_batch.tasks.base import Answer, Asker, TaskResult
from corm_batch.tasks.overflow import MakePrompt, ask_any, finish_reason_of, parted, pieces, prompts_of, text_of
from corm_batch.tasks.plain_form import PlainForm
from corm_batch.tasks.questions import ANSWER_FROM_DOCUMENT, QuestionInstruction, by_certainty, says_something
from corm_batch.tasks.scored import LOGPROBS, TOKENS, ScoredTask, logprobs_of

_PLACES = "question", "question_column", "questions", "questions_column"
_ANSWERS = "answers"
_SHOWN = 80


def _not_blank(question: str) -> str:
    """Refuse a question that is none."""
    if not question.strip():
        raise ValueError("is blank")
    return question


def _different(questions: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a question that is none, or that is asked twice."""
    for place, question in enumerate(questions):
        if not question.strip():
            raise ValueError(f"entry {place} is blank")
        if (first := questions.index(question)) < place:
            raise ValueError(f"entry {place} is entry {first} again: {question[:_SHOWN]!r}")
    return questions


Questions = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | tuple[str, ...]
    ),
    Field(min_length=1),
    AfterValidator(_different),
]


class QuestionAnswer(ScoredTask, name="question_answer"):
    """One question or several asked of every document: the same for all, or each row's own.

    Several are asked over one reading. The columns `questions`, `answers`, `mean_logprobs` and `finish_reasons` are
    lists of one length, and `output` the answers as JSON; one that cannot be asked or answered is null there,
    `failed_fields` says why, and the others stay. With `rows: question` each question has a row of its own, with
    `question_number` and the columns of one question, failed where it has no answer; what the document took stands in
    the first of them.

    With `choices` or a `pattern` an answer is one of these, or "Not stated."; one that was cut off is none.

    With `overflow: map_reduce` every window of a long document is asked, and of the answers that are not "Not stated."
    the one the model was most certain of wins (highest mean log-probability: "map-rerank"). No prompt combines the
    answers: a fact stands in one window, the others can only guess, and a model that reads ten guesses beside one
    answer may well pick a guess, or make a new one of several.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        "n": "a question has one answer here, of the windows' answers the most certain one; the task prompt gives "
        "several of a document"
    }

    question: Annotated[str, AfterValidator(_not_blank)] | None = Field(None, description="asked of every document")
    question_column: str | None = Field(None, min_length=1, description="column that holds each row's own question")
    questions: Questions | None = Field(None, description="all asked of every document")
    questions_column: str | None = Field(
        None, min_length=1, description="column that holds each row's own questions, a list of texts"
    )
    rows: Literal["document", "question"] = Field(
        "document", description="document: one row with lists of answers; question: one row for each"
    )
    instruction: QuestionInstruction = Field(ANSWER_FROM_DOCUMENT, description="{question} stands for the question")
    choices: tuple[str, ...] = Field((), description='answers that there are, beside "Not stated."')
    pattern: str | None = Field(
        None, min_length=1, description='regular expression that a whole answer matches, if it is not "Not stated."'
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        """Answers have at most one form, which a grammar can be made of."""
        if self.choices and self.pattern is not None:
            raise ValueError("choices and pattern: one of them says what answers there are")
        for place, choice in enumerate(self.choices):
            if not choice or choice != choice.strip() or choice in self.choices[:place]:
                raise ValueError(
                    f"choices: entry {place}, {choice!r}, is blank, has blanks around it or is there twice"
                )
        if (form := self._form) is not None:
            try:
                form.check()
            except GrammarError as error:
                raise ValueError(f"pattern: {error}") from error
        return self

    @property
    def _form(self) -> PlainForm | None:
        """What answers are held to."""
        return PlainForm(self.choices, self.pattern) if self.choices or self.pattern else None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        """Exactly one place says what to ask."""
        if sum(getattr(self, place) is not None for place in _PLACES) != 1:
            raise ValueError(f"exactly one of {', '.join(_PLACES[:-1])} and {_PLACES[-1]} is needed")
        if self.rows == "question" and not self._are_several:
            raise ValueError("rows: question is for questions or questions_column: one question is one row")
        return self

    @property
    def _are_several(self) -> bool:
        return self.questions is not None or self.questions_column is not None

    @property
    def asks_several(self) -> bool:
        """With more than one question, or nobody knows how many."""
        return self._are_several and (self.questions is None or len(self.questions) > 1)

    @property
    def source_columns(self) -> Sequence[str]:
        """The column of questions, if there is one."""
        return tuple(filter(None, (self.question_column, self.questions_column)))

    @property
    def exploded(self) -> Mapping[str, str]:
        """With `rows: question`, the columns that one row of each question has in place of the lists."""
        if self.rows == "document":
            return {}
        lists = "questions", _ANSWERS, "mean_logprobs", "finish_reasons"
        found = dict(zip(lists, ("question", "output", "mean_logprob", "finish_reason"), strict=True))
        return found if self.logprobs is None else {**found, LOGPROBS.name: LOGPROBS.name}

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """What was asked, and how certain the answers are."""
        certain = "mean natural-log probability of the answer's tokens"
        if not self._are_several or self.rows == "question":
            tokens = [field.with_type(TOKENS) for field in super().result_fields]
            return (
                column("question", pa.string(), "what was asked", answers="output"),
                column("mean_logprob", pa.float64(), certain, detail="yes"),
                *(tokens if self._are_several else super().result_fields),
            )
        ended = "of each answer: stop, or length when it was cut"
        return (
            column("questions", pa.list_(pa.string()), "what was asked", answers=_ANSWERS),
            column(_ANSWERS, pa.list_(pa.string()), "the answer to each question; null where there is none"),
            column("mean_logprobs", pa.list_(pa.float64()), f"of each answer: {certain}", detail="yes"),
            column("finish_reasons", pa.list_(pa.string()), ended, detail="yes"),
            *super().result_fields,
        )

    def prompts(self, document: Document) -> Sequence[MakePrompt]:
        """One for each question."""
        asked = self._questions(document) if self._are_several else [self._question(document)]
        return self._prompts([one for one in asked if isinstance(one, str)])

    def _prompts(self, questions: Sequence[str]) -> list[MakePrompt]:
        return prompts_of(self.instruction.replace("{question}", question) for question in questions)

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Answer the questions from one document.

        Raises:
            DocumentError: its row holds no question, or none could be asked.
            AnswerError: the model wrote, but no answer.
        """
        if self._are_several:
            return await self._several(document, asker)
        question = self._question(document)
        (best,), num_prompts = await self._best(document, asker, [question])
        if isinstance(best, AnswerError):
            best.columns["question"] = question  # it was asked: who counts answers counts this one as none
        if isinstance(best, DocumentError):
            raise best
        columns = {"question": question, "mean_logprob": best.mean_logprob, **self._tokens([best])}
        return TaskResult(best.text, columns, best.finish_reason, num_prompts)

    async def _several(self, document: Document, asker: Asker) -> TaskResult:
        """One row of lists."""
        asked = self._questions(document)
        questions = list(dict.fromkeys(one for one in asked if isinstance(one, str)))
        if not questions:
            raise next(one for one in asked if isinstance(one, DocumentError))
        found, num_prompts = await self._best(document, asker, questions)
        by_question = dict(zip(questions, found, strict=True))
        best = [by_question[one] if isinstance(one, str) else one for one in asked]
        failed = {f"{_ANSWERS}[{place}]": str(one) for place, one in enumerate(best) if isinstance(one, DocumentError)}
        answers = [None if isinstance(one, DocumentError) else one for one in best]
        columns = {
            "questions": [one if isinstance(one, str) else None for one in asked],
            _ANSWERS: [one and one.text for one in answers],
            "mean_logprobs": [one and one.mean_logprob for one in answers],
            "finish_reasons": [one and one.finish_reason for one in answers],
            **self._tokens(answers),
        }
        if len(failed) == len(best):
            raise AnswerError("; ".join(f"{name}: {reason}" for name, reason in failed.items()), columns=columns)
        output = json.dumps(columns[_ANSWERS], ensure_ascii=False)
        return TaskResult(output, columns, finish_reason_of(filter(None, answers)), num_prompts, failed)

    def _tokens(self, answers: Sequence[Answer | None]) -> dict[str, Any]:
        """The column of their tokens, where there is one."""
        return {} if self.logprobs is None else {LOGPROBS.name: logprobs_of(answers)}

    async def _best(
        self, document: Document, asker: Asker, questions: Sequence[str]
    ) -> tuple[list[Answer | DocumentError], int]:
        """For each question the best answer of all windows, or why there is none; and how many prompts that took."""
        prompts = self._prompts(questions)
        text, refused = text_of(document), dict[int, DocumentError]()
        try:
            texts = pieces(self, asker, text, *prompts)
        except DocumentError:
            refused = self._refused(asker, text, prompts)
            if len(refused) == len(prompts):
                raise
            prompts = [prompt for place, prompt in enumerate(prompts) if place not in refused]
            texts = pieces(self, asker, text, *prompts)
        form, all_prompts = self._form, [prompt(piece) for piece in texts for prompt in prompts]
        given = await ask_any(self, asker, all_prompts, repeat(form.grammar if form else None))
        if form is not None:
            given = [form.checked(one) if isinstance(one, Answer) else one for one in given]
        best = iter([_best_of(given[place :: len(prompts)]) for place in range(len(prompts))])
        return [refused.get(place) or next(best) for place in range(len(questions))], len(given)

    def _refused(self, asker: Asker, text: str, prompts: Sequence[MakePrompt]) -> dict[int, DocumentError]:
        """Which of the prompts cannot be put to the text, whatever the others are, and why."""
        refused = {}
        for place, prompt in enumerate(prompts):
            try:
                pieces(self, asker, text, prompt)
            except DocumentError as error:
                refused[place] = error
        return refused

    def _question(self, document: Document) -> str:
        """What to ask of this document."""
        if self.question_column is None:
            assert self.question is not None
            return self.question
        question = document.columns[self.question_column]
        if not isinstance(question, str) or not question.strip():
            several = " (task.questions_column takes lists)" if isinstance(question, list) else ""
            raise DocumentError(f"column {self.question_column!r} holds no question but {_shown(question)}{several}")
        return question

    def _questions(self, document: Document) -> list[str | DocumentError]:
        """What to ask of this document, an error in the place of what is no question."""
        if self.questions_column is None:
            assert self.questions is not None
            return list(self.questions)
        given = document.columns[self.questions_column]
        where = f"column {self.questions_column!r} holds no"
        if not isinstance(given, list) or not given:
            one = " (task.question_column takes one question a row)" if isinstance(given, str) else ""
            raise DocumentError(f"{where} list of questions but {_shown(given)}{one}")
        return [
            one
            if isinstance(one, str) and one.strip()
            else DocumentError(f"{where} question but {_shown(one)} at place {place}")
            for place, one in enumerate(given)
        ]


def _best_of(given: Sequence[Answer | DocumentError]) -> Answer | DocumentError:
    """Of what the windows say the answer that the model was most certain of, or why there is none."""
    answers, failures = parted(given)
    best = next(iter(by_certainty(answers)), None)
    if best is None or (failures and not says_something(best)):  # the answer may stand in what was not answered
        return failures[0]
    return best


def _shown(value: Any) -> str:
    """`value`, bounded."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
