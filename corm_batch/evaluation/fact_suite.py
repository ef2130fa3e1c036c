"""FactSuite: facts planted in natural text, asked for one by one; an answer is the fact, or says it in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from pydantic import AfterValidator, Field

from corm_batch.data.uri import valid_uri
from corm_batch.errors import SourceError
from corm_batch.evaluation.base import LAYOUT_TOKENS, Case, Suite, Tokenizer, rows
from corm_batch.evaluation.facts import Maker
from corm_batch.evaluation.haystack import Haystack, common_words

_ANSWER_TOKENS = 64
_QUESTION_ROOM = 32
"""Tokens kept for a question; one that needs more is drawn again with its text."""

File = Annotated[str, AfterValidator(valid_uri)]
"""A file of a suite, local or s3://."""


@lru_cache(maxsize=4)
def haystack_text(uri: str) -> str:
    """Texts to plant facts in, one after the other.

    Args:
        uri: of a Parquet file with the columns `kind` and `text`; rows of the kind `haystack` count.

    Raises:
        SourceError: the file cannot be read, or holds no such text.
    """
    texts = [row["text"] for row in rows(uri, ["kind", "text"]) if row["kind"] == "haystack"]
    if not texts:
        raise SourceError(f"{uri}: no row is of the kind haystack")
    return "\n\n".join(texts)


def open_haystack(tokenizer: Tokenizer, uri: str, seed: int | str) -> Haystack:
    """The haystack of a file, with its plain words."""
    text = np.array(tokenizer.encode(haystack_text(uri), add_special_tokens=False).ids, np.uint32)
    return Haystack(tokenizer, text, common_words(tokenizer, text), seed)


class FactSuite(Suite):
    """A suite whose tasks are functions that make facts.

    A plug-in names them:

        class Needles(FactSuite, name="needles"):
            makers = (pass_key, magic_number)
    """

    shares: ClassVar[tuple[str, ...]] = ("exact", "said")
    makers: ClassVar[tuple[Maker, ...]] = ()
    haystack: File = Field(description="Parquet file of the text around the facts: columns kind (haystack) and text")

    def cases(
        self, tokenizer: Tokenizer, lengths: Sequence[int], count: int, seed: int | str = "evaluation"
    ) -> Iterator[Case]:
        """`count` cases of each length and task; each text holds one task's facts, of which one is asked for."""
        haystack = open_haystack(tokenizer, self.haystack, seed)
        for length in lengths:
            for maker in type(self).makers:
                haystack.random.seed(f"{seed} {maker.__name__} {length}")
                yield from _cases(haystack, maker, length, count)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """Whether the answer is the fact, blanks at the ends aside, and whether it says it among other words."""
        fact = case.answers[0].strip()
        said = re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", text)
        return {"exact": float(text.strip() == fact), "said": float(said is not None)}


def _cases(haystack: Haystack, maker: Maker, length: int, count: int) -> Iterator[Case]:
    """Cases of one task that fit `length` tokens, the answer included."""
    room = length - _ANSWER_TOKENS - _QUESTION_ROOM
    while count:
        document, questions = haystack.planted(haystack.made([maker], room), room)
        question, answer = questions[0]
        asked, expected = len(haystack.encode(f" {question}")), len(haystack.encode(f" {answer}"))
        if len(document) + asked + LAYOUT_TOKENS + _ANSWER_TOKENS <= length and expected < _ANSWER_TOKENS:
            ids = tuple(document.tolist())
            yield Case(f"facts {length}", maker.__name__, ids, question, (answer,), _ANSWER_TOKENS)
            count -= 1
