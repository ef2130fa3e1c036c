"""Suite: questions whose right answers are known, and what an answer to each is worth.

Knows nothing of engines, policies or prompts: whoever asks lays a case out as the model wants it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.filesystem import read_whole
from corm_batch.errors import SourceError
from corm_batch.registry import Plugin

LAYOUT_TOKENS = 3
"""Of the shortest layout: one token before the document, one before the question, one before the answer."""


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


@dataclass(frozen=True)
class Case:
    """One question about one document.

    Attributes:
        group: what is run together and shares its memory figures.
        task: what is scored together within the group.
        document: token ids, cut as the suite cut them; `tokenizer.decode` makes a text of them for a chat template.
        question: what is asked about it.
        answers: any of them counts.
        max_new_tokens: of the answer.
    """

    group: str
    task: str
    document: tuple[int, ...]
    question: str
    answers: tuple[str, ...]
    max_new_tokens: int


class Suite(Plugin, kind="suite", package="corm_batch.evaluation.suites"):
    """Cases of one kind and their scores."""

    shares: ClassVar[tuple[str, ...]] = ("exact",)
    """Scores that are 0 or 1, which are counted; means are taken of the others."""

    @abstractmethod
    def cases(
        self, tokenizer: Tokenizer, lengths: Sequence[int], count: int, seed: int | str = "evaluation"
    ) -> Iterator[Case]:
        """Cases that follow from the arguments alone.

        Args:
            tokenizer: of the model that is asked.
            lengths: tokens of document, question and answer together, `LAYOUT_TOKENS` included; a suite of texts that
                people wrote leaves them as long as they are.
            count: cases of each task and length, at most.
            seed: of every draw.

        Raises:
            SourceError: texts it is made of cannot be read.
        """

    @abstractmethod
    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """What an answer is worth, score by score.

        Args:
            case: one of `cases`.
            text: the answer without special tokens and blanks around it.
        """

    @staticmethod
    def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
        """Token ids without special ones."""
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)


def rows(uri: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a Parquet file, local or s3://.

    Raises:
        SourceError: no such file, no Parquet, or a column is missing.
    """
    content = read_whole(uri)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if missing := [column for column in columns if column not in file.schema_arrow.names]:
            raise SourceError(f"{uri}: no column {', '.join(missing)}; there are: {', '.join(file.schema_arrow.names)}")
        found: list[dict[str, Any]] = file.read(list(columns)).to_pylist()
    except pa.ArrowException as error:
        raise SourceError(f"{uri}: no Parquet file that can be read: {error}") from error
    return found
