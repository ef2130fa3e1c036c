"""Suite: questions whose right answers are known, and what an answer to each is worth.

Knows nothing of engines, policies or token ids of prompts: whoever asks lays a case out as the model wants it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import AfterValidator, Field

from corm_batch.data.uri import valid_uri
from corm_batch.registry import Plugin
from corm_batch.tasks.base import ANOTHER_TEXT, Prompt

LAYOUT_TOKENS = 3
"""Of the shortest layout: one token before the document, one before the question, one before the answer."""

File = Annotated[str, AfterValidator(valid_uri)]
"""A file of a suite, local or s3://."""


class Encoding(Protocol):
    """What `Tokenizer.encode` returns."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that suites use."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Encoding:
        """Text as tokens."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Tokens as text."""

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""

    def __hash__(self) -> int:
        """What is made with it once can be kept for it."""


@dataclass(frozen=True)
class Case:
    """One question about one document.

    Attributes:
        group: what has figures of its own beside those of its tasks, such as one length.
        task: what is scored together within the group.
        document: its text.
        question: what is asked about it; empty where the text itself ends with what is asked.
        answers: any of them counts.
        max_new_tokens: of the answer.
        prefix: what the answer begins with: given to the model, and no part of what it is scored by.
        choices: all that there is to choose from, where an answer is one of several.
        given: text that goes on behind the document, without chat template and question: how likely the model finds it
            is scored, and nothing is answered.
    """

    group: str
    task: str
    document: str
    question: str
    answers: tuple[str, ...]
    max_new_tokens: int
    prefix: str = ""
    choices: tuple[str, ...] = ()
    given: str = ""


class Suite(Plugin, kind="suite", package="corm_batch.evaluation.suites"):
    """Cases of one kind and their scores."""

    shares: ClassVar[tuple[str, ...]] = ("exact",)
    """Scores that are 0 or 1, which are counted; means are taken of the others."""

    own_answers: ClassVar[bool] = False
    """Whether the full cache's own answers are scored, by how likely each policy finds them, token by token."""

    position: Literal["after", "before", "hidden"] = Field(
        "after",
        description="where the question stands: after the document, before it, or after it but hidden until the "
        "document has been read and compressed",
    )

    @property
    def needs_texts(self) -> bool:
        """Whether its cases are made of documents of the user's own."""
        return False

    @abstractmethod
    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """Cases that follow from the arguments alone.

        Args:
            tokenizer: of the model that is asked.
            lengths: tokens of document, question and answer together, `LAYOUT_TOKENS` included; a suite of texts that
                people wrote leaves them as long as they are.
            count: cases of each task and length, at most.
            seed: of every draw.
            texts: documents of the user's own, for a suite that was given no file of its own.

        Raises:
            SourceError: texts it is made of cannot be read.
            SpecError: there are none, or too few of them.
        """

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """What an answer is worth, score by score, the same ones for every case; none where likelihoods are scored.

        Args:
            case: one of `cases`.
            text: the answer without special tokens and blanks around it.
        """
        return {}

    def prompt(self, case: Case) -> Prompt:
        """What the model is asked, as a task of a job asks it."""
        if case.question and self.position == "before":
            return Prompt(
                f"{case.question}\n\n{case.document}", "", lambda: Prompt(f"{case.question}\n\n{ANOTHER_TEXT}", "")
            )
        return Prompt(case.document, case.question)

    def position_text(self, case: Case) -> str:
        """Where the question stands, as figures state it: what a policy that looks at the last tokens can see."""
        if case.given:
            return "no question"
        if case.question and self.position == "hidden":
            return "question hidden until the document was compressed"
        return f"question {self.position} the document" if case.question else "question within the document"

    @staticmethod
    def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
        """Token ids without special ones."""
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)
