"""FactSuite: facts planted in natural text, asked for one by one; an answer is the fact, or says it in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from corm_batch.errors import SourceError, SpecError
from corm_batch.evaluation.base import LAYOUT_TOKENS, Case, File, Suite, Tokenizer
from corm_batch.evaluation.facts import Maker
from corm_batch.evaluation.haystack import Haystack, Ids, common_words
from corm_batch.evaluation.rows import read_rows

ANSWER_TOKENS = 64
QUESTION_ROOM = 32
"""Tokens kept for a question; one that needs more is drawn again with its text."""
_TRIES = 200


@lru_cache(maxsize=4)
def haystack_text(uri: str) -> str:
    """Texts to plant facts in, one after the other.

    Args:
        uri: of rows with a column `text`; where there is a column `kind`, too, rows of the kind `haystack` count.

    Raises:
        SourceError: the file cannot be read, or holds no such text.
    """
    texts = [row.text("text") for row in read_rows(uri, ["text"]) if row.values.get("kind", "haystack") == "haystack"]
    if not texts:
        raise SourceError(f"{uri}: no row is of the kind haystack")
    return "\n\n".join(texts)


def open_haystack(tokenizer: Tokenizer, uri: str | None, texts: Sequence[str], seed: int | str) -> Haystack:
    """The haystack of a file, or of the user's own documents where none is named, with its plain words.

    Raises:
        SourceError: the file cannot be read, or holds no text.
        SpecError: there is neither a file nor a document.
    """
    if uri is None and not texts:
        raise SpecError("suite.haystack: no text to plant anything in: name a file, as haystack: books.parquet")
    text, words = _encoded(tokenizer, "\n\n".join(texts) if uri is None else haystack_text(uri))
    return Haystack(tokenizer, text, words, seed)


@lru_cache(maxsize=2)
def _encoded(tokenizer: Tokenizer, whole: str) -> tuple[Ids, list[str]]:
    """Token ids and plain words of a text; suites share one."""
    text = np.array(tokenizer.encode(whole, add_special_tokens=False).ids, np.uint32)
    return text, common_words(tokenizer, text)


def check_room(length: int, room: int) -> None:
    """Make sure that a length has room for a document beside question and answer.

    Raises:
        SpecError: it has none.
    """
    if room < 64:
        least = length - room + 64
        raise SpecError(f"lengths: got {length}, allowed is {least} or more: question and answer take {length - room}")


def check_length(haystack: Haystack, length: int, room: int) -> None:
    """Make sure that texts of a length can be cut.

    Raises:
        SpecError: there are fewer tokens, or no room for anything beside question and answer.
    """
    check_room(length, room)
    if len(haystack.text) < room:
        raise SpecError(
            f"lengths: {length} takes {room} tokens of text to plant in, and there are {len(haystack.text)}: ask for "
            "shorter ones, or name a longer text, as haystack: books.parquet"
        )


class HaystackSuite(Suite):
    """A suite whose cases are cut from a long text, or planted in it."""

    haystack: File | None = Field(
        None,
        description="file of that text: a column text, of the kind haystack where it has a column kind; default: the "
        "job's own documents",
    )

    @property
    def needs_texts(self) -> bool:
        """Where no file is named."""
        return self.haystack is None


class FactSuite(HaystackSuite):
    """A suite whose tasks are functions that make facts.

    A plug-in names them:

        class Needles(FactSuite, name="needles"):
            makers = (pass_key, magic_number)
    """

    shares: ClassVar[tuple[str, ...]] = ("exact", "said")
    makers: ClassVar[tuple[Maker, ...]] = ()

    tasks: tuple[str, ...] | None = Field(None, description="which of its tasks; default: all of them")

    @field_validator("tasks")
    @classmethod
    def _known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuse a task that the suite does not have."""
        known = [maker.__name__ for maker in cls.makers]
        if value is not None and (not value or set(value) - set(known)):
            raise ValueError(f"there are: {', '.join(known)}")
        return value

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """`count` cases of each length and task; each text holds one task's facts, of which one is asked for."""
        haystack = open_haystack(tokenizer, self.haystack, texts, seed)
        for length in lengths:
            check_length(haystack, length, length - ANSWER_TOKENS - QUESTION_ROOM)
            for maker in (made for made in type(self).makers if self.tasks is None or made.__name__ in self.tasks):
                haystack.random.seed(f"{seed} {maker.__name__} {length}")
                yield from _cases(haystack, maker, length, count)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """Whether the answer is the fact, blanks at the ends aside, and whether it says it among other words."""
        fact = case.answers[0].strip()
        said = re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text)
        return {"said": float(said is not None), "exact": float(text.strip() == fact)}


def _cases(haystack: Haystack, maker: Maker, length: int, count: int) -> Iterator[Case]:
    """Cases of one task that fit `length` tokens, the answer included.

    Raises:
        SpecError: none does.
    """
    room = length - ANSWER_TOKENS - QUESTION_ROOM
    tries = 0
    while count:
        document, questions = haystack.planted(haystack.made([maker], room), room)
        question, answer = questions[0]
        asked, expected = len(haystack.encode(f" {question}")), len(haystack.encode(f" {answer}"))
        if len(document) + asked + LAYOUT_TOKENS + ANSWER_TOKENS <= length and expected < ANSWER_TOKENS:
            text = haystack.decode(document)
            yield Case(f"facts {length}", maker.__name__, text, question, (answer,), ANSWER_TOKENS)
            count, tries = count - 1, 0
        elif (tries := tries + 1) == _TRIES:
            raise SpecError(f"lengths: got {length}, which is too short for what {maker.__name__} plants and asks for")
