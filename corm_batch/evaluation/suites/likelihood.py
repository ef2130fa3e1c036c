"""Likelihood: how likely a policy finds the full cache's own answers, token by token: the loss it adds, in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        """The first `count` documents, for each length their beginning of so many tokens with question and answer."""
        if self.documents is not None:
            texts = [row.text("text") for row in read_rows(self.documents, ["text"])]
        if not texts:
            raise SpecError("suite.documents: there is none: name a file, as documents: texts.parquet")
        asked = len(self.encode(tokenizer, self.question))
        for length in lengths:
            room = length - asked - self.max_new_tokens
            check_room(length, room)
            for text in texts[:count]:
                beginning = tokenizer.decode(self.encode(tokenizer, text)[:room], skip_special_tokens=False)
                document = text if len(beginning) >= len(text) else beginning.strip("\ufffd")
                yield Case(f"documents {length}", self.name, document, self.question, (), self.max_new_tokens)
