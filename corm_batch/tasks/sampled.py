"""SampledTask: a task whose row holds what the model wrote to one prompt as it stands, once or several times.

Knows nothing of what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Any, Protocol, Self

import pyarrow as pa
from pydantic import Field, model_validator

from corm_batch.data.schema import column
from corm_batch.errors import AnswerError, DocumentError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.base import Answer, Asker, Prompt, TaskResult
from corm_batch.tasks.overflow import ask_any, finish_reason_of, parted
from corm_batch.tasks.scored import ScoredTask, logprobs_of

ANSWERS: tuple[pa.Field, ...] = (
    column("answers", pa.list_(pa.string()), "every answer; null where there is none", detail="yes"),
    column("finish_reasons", pa.list_(pa.string()), "of each answer: stop, or length when it was cut", detail="yes"),
    column(
        "mean_logprobs",
        pa.list_(pa.float64()),
        "of each answer: mean natural-log probability of its tokens",
        unit="nats",
        detail="yes",
    ),
)


class Form(Protocol):
    """What answers are held to."""

    @property
    def grammar(self) -> Grammar:
        """Of the answer."""

    def checked(self, answer: Answer) -> Answer | AnswerError:
        """The answer, or why it is none."""


class SampledTask(ScoredTask):
    """With `n` above 1 the output is a JSON list of all answers, which the columns `answers`, `finish_reasons` and
    `mean_logprobs` hold one by one. The prompt is read once, and each answer is drawn with random numbers of its own,
    which are the same in every batch and every run."""

    n: int = Field(1, ge=1, le=128, description="answers of one document, each drawn with numbers of its own")

    @model_validator(mode="after")
    def _drawn_if_several(self) -> Self:
        """Several answers differ, and nothing is made of them."""
        if self.n > 1 and self.overflow == "map_reduce":
            raise ValueError("n: several answers of a window do not become one: overflow: truncate or error")
        if not self.draws_by_row and (problem := self._sameness):
            raise ValueError(problem)
        return self

    @property
    def _sameness(self) -> str | None:
        """Why several answers would be one answer."""
        if self.n == 1 or self.temperature > 0:
            return None
        return f"n: {self.n} answers at temperature 0 are {self.n} times the same: set a temperature above 0"

    @property
    def result_fields(self) -> Sequence[pa.Field]:
        """Columns of several answers, and of their tokens."""
        return [*(ANSWERS if self.n > 1 else ()), *super().result_fields]

    async def answered(self, asker: Asker, prompt: Prompt, form: Form | None = None) -> TaskResult:
        """The row of one prompt.

        Raises:
            DocumentError: it cannot be asked.
            AnswerError: the model wrote, but no answer.
        """
        if self._sameness:
            raise DocumentError(self._sameness)
        given = await ask_any(self, asker, [prompt] * self.n, repeat(form.grammar if form else None))
        if form is not None:
            given = [form.checked(one) if isinstance(one, Answer) else one for one in given]
        return self.result(given, len(given))

    def result(self, given: Sequence[Answer | DocumentError], pieces: int) -> TaskResult:
        """The row of its answers, made of so many prompts.

        Raises:
            AnswerError: there is none.
        """
        answers, failures = parted(given)
        if not answers:
            raise failures[0]
        failed = {f"answers[{place}]": str(one) for place, one in enumerate(given) if isinstance(one, DocumentError)}
        found = [one if isinstance(one, Answer) else None for one in given]
        columns: dict[str, Any] = {
            "answers": [one and one.text for one in found],
            "finish_reasons": [one and one.finish_reason for one in found],
            "mean_logprobs": [one and one.mean_logprob for one in found],
            "logprobs": logprobs_of(found),
            "request_tokens": answers[0].prompt_tokens,
        }
        output = answers[0].text if self.n == 1 else json.dumps(columns["answers"], ensure_ascii=False)
        own = {field.name: columns[field.name] for field in self.result_fields if field.name in columns}
        return TaskResult(output, own, finish_reason_of(answers), pieces, failed)
