"""Likelihood: how likely a policy finds the full cache's own answers, token by token: the loss it adds, in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as count_from
from itertools import islice

from pydantic import Field

from corm_batch.errors import SpecError
from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.fact_suite import check_room
from corm_batch.evaluation.rows import read_rows


class Likelihood(Suite, name="likelihood"):
    """The full cache's own answers, scored under each policy; one question about every document."""

    shares = ()
    own_answers = True

    documents: File | None = Field(
        None, description="file of documents: a column text; default: the job's own documents"
    )
    question: str = Field(
        "Summarize this text in a few sentences.", min_length=1, description="what is asked about each of them"
    )
    max_new_tokens: int = Field(128, ge=1, description="tokens of an answer at most")

    @property
    def needs_texts(self) -> bool:
        """Where no file is named."""
        return self.documents is None

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """For each length the documents' beginnings of so many tokens with question and answer; where there are fewer
        documents than `count`, the next pieces of them, and the next."""
        if self.documents is not None:
            texts = [row.text("text") for row in read_rows(self.documents, ["text"])]
        if not texts:
            raise SpecError("suite.documents: there is none: name a file, as documents: texts.parquet")
        encoded = [(text, self.encode(tokenizer, text)) for text in texts[:count]]
        asked = len(self.encode(tokenizer, self.question))
        for length in lengths:
            room = length - asked - self.max_new_tokens
            check_room(length, room)
            for document in islice(_pieces(tokenizer, encoded, room), count):
                yield Case(f"documents {length}", self.name, document, self.question, (), self.max_new_tokens)


def _pieces(tokenizer: Tokenizer, texts: Sequence[tuple[str, Sequence[int]]], size: int) -> Iterator[str]:
    """The first `size` tokens of every text, then the next of those that have as many, and so on; short ones whole."""
    for start in count_from(0, size):
        left = [(text, ids) for text, ids in texts if start == 0 or len(ids) >= start + size]
        if not left:
            return
        for text, ids in left:
            whole = start == 0 and len(ids) <= size
            piece = tokenizer.decode(ids[start : start + size], skip_special_tokens=False)
            yield text if whole else piece.strip("\ufffd")
