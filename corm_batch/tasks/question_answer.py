"""Question answering. Knows nothing of tokens: what fits is the asker's to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import pyarrow as pa
from pydantic import Field, model_validator

from corm_batch.data.document import Document
from corm_batch.data.schema import column
from corm_batch.errors import DocumentError
from corm_batch.tasks.base import Asker, Prompt, Task, TaskResult
from corm_batch.tasks.overflow import ask_any, parted, pieces, text_of
from corm_batch.tasks.questions import ANSWER_FROM_DOCUMENT, QuestionInstruction, by_certainty, says_something


class QuestionAnswer(Task, name="question_answer"):
    """One question asked of every document: the same for all, or each row's own.

    With `overflow: map_reduce` every window of a long document is asked, and of the answers that are not "Not stated."
    the one the model was most certain of wins (highest mean log-probability: "map-rerank"). No prompt combines the
    answers: a fact stands in one window, the others can only guess, and a model that reads ten guesses beside one
    answer may well pick a guess, or make a new one of several.
    """

    question: str | None = Field(None, min_length=1, description="asked of every document")
    question_column: str | None = Field(None, min_length=1, description="column that holds each row's own question")
    instruction: QuestionInstruction = Field(ANSWER_FROM_DOCUMENT, description="{question} stands for the question")

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        """Exactly one place says what to ask."""
        if (self.question is None) == (self.question_column is None):
            raise ValueError("exactly one of question and question_column is needed")
        return self

    @property
    def source_columns(self) -> Sequence[str]:
        """The column of questions, if there is one."""
        return () if self.question_column is None else (self.question_column,)

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """What was asked, and how certain the answer is."""
        return (
            column("question", pa.string(), "what was asked"),
            column("mean_logprob", pa.float64(), "mean natural-log probability of the answer's tokens"),
        )

    async def run(self, document: Document, asker: Asker) -> TaskResult:
        """Answer the question from one document.

        Raises:
            DocumentError: its row holds no question.
            AnswerError: the model wrote, but no answer.
        """
        question = self._question(document)
        instruction = self.instruction.replace("{question}", question)

        def prompt(piece: str) -> Prompt:
            return Prompt(piece, instruction)

        texts = pieces(self, asker, text_of(document), prompt)
        answers, failures = parted(await ask_any(self, asker, map(prompt, texts)))
        best = next(iter(by_certainty(answers)), None)
        if best is None or (failures and not says_something(best)):  # the answer may stand in what was not answered
            raise failures[0]
        columns = {"question": question, "mean_logprob": best.mean_logprob}
        return TaskResult(best.text, columns, best.finish_reason, len(texts))

    def _question(self, document: Document) -> str:
        """What to ask of this document."""
        if self.question_column is None:
            assert self.question is not None
            return self.question
        question = document.columns[self.question_column]
        if not isinstance(question, str) or not question.strip():
            raise DocumentError(f"column {self.question_column!r} holds no question but {question!r}")
        return question
