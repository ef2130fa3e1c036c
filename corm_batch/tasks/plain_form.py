"""PlainForm: the form of a plain answer, one of a few texts or a regular expression's, or that it is not stated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from corm_batch.errors import AnswerError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.base import Answer
from corm_batch.tasks.json_schema import matches
from corm_batch.tasks.questions import NO_ANSWER

_SHOWN = 200


@dataclass(frozen=True)
class PlainForm:
    """What an answer may be, beside "Not stated.".

    Attributes:
        choices: all there are; () where a pattern says it.
        pattern: what a whole answer matches.
    """

    choices: tuple[str, ...]
    pattern: str | None = None

    @property
    def grammar(self) -> Grammar:
        """For the engine."""
        if self.pattern is None:
            return Grammar.of_choices([*self.choices, NO_ANSWER])
        return Grammar.of_regex(f"(?:{self.pattern})|{re.escape(NO_ANSWER)}")

    def check(self) -> None:
        """Have the form be one.

        Raises:
            GrammarError: of a pattern, by itself or beside "Not stated.", no grammar can be made.
        """
        if self.pattern is not None:
            Grammar.of_regex(self.pattern).compiled()
        self.grammar.compiled()

    def checked(self, answer: Answer) -> Answer | AnswerError:
        """The answer, or why it is none: a stop text or the end of its tokens may have cut it off."""
        text, is_cut = answer.text, answer.finish_reason == "length"
        if text == NO_ANSWER or (text in self.choices and not is_cut):
            return answer
        if is_cut:  # even one of the choices may be the beginning of another
            said = "was cut off at task.max_new_tokens"
        elif self.pattern is None:
            said = f"is none of choices: {', '.join(self.choices)}"
        elif not matches(f"^(?:{self.pattern})$", text):
            said = f"does not match pattern: {self.pattern}"
        else:
            return answer
        return AnswerError(f"the answer {text[:_SHOWN]!r} {said}", output=text)
