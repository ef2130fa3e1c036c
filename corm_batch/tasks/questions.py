"""Plain questions, shared by the tasks that ask them: wording, and telling an answer from "it is not there"."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from corm_batch.tasks.base import Answer
from corm_batch.tasks.numbers import AROUND

NO_ANSWER = "Not stated."
ANSWER_FROM_DOCUMENT = (
    "Answer the question from the document above alone, as briefly as possible. "
    f"If the document does not say, reply exactly: {NO_ANSWER}\n\nQuestion: {{question}}"
)


_WHERE = re.compile(
    r"(explicitly |directly |anywhere )*(in|by|within) (the |this )?(given |provided |above )?"
    r"(document|text|passage|article|context|excerpt|transcript|paper)( above| provided)?"
)
"""How models say more than they were to: not stated in the document."""


def _with_question(instruction: str) -> str:
    """Refuse an instruction that would not ask the question."""
    if "{question}" not in instruction:
        raise ValueError("must hold {question}, where the question goes")
    return instruction


QuestionInstruction = Annotated[str, AfterValidator(_with_question)]


def says_something(answer: Answer) -> bool:
    """Whether `answer` is one; see `is_answer`."""
    return is_answer(answer.text)


def is_answer(said: str) -> bool:
    """Whether a text is an answer, rather than empty or the agreed "not stated", whatever is explained behind that."""
    text, nothing = said.strip(AROUND).casefold(), NO_ANSWER.rstrip(".").casefold()
    if not text.startswith(nothing):
        return bool(text.rstrip("."))
    behind = text.removeprefix(nothing).lstrip(AROUND)
    if where := _WHERE.match(behind):
        behind = behind[where.end() :].lstrip(AROUND)
    return bool(behind) and behind[0] not in ".!"


def by_certainty(answers: list[Answer]) -> list[Answer]:
    """Those that say something first, and among equals the one the model was most certain of."""
    return sorted(answers, key=certainty, reverse=True)


def certainty(answer: Answer) -> tuple[bool, float]:
    """What `by_certainty` sorts by."""
    return says_something(answer), answer.mean_logprob
