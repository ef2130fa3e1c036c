"""What the evaluation asks: cases of the suites over held-out texts, laid out as the model that is asked reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from corm_batch.evaluation.base import Case, Suite
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer
from infra.training.compose import ANSWER, DOCUMENT, QUESTION

DATA = Path(__file__).parent / "evaluation"
_BOOKS, _SQUAD, _SUMMARIES = (str(DATA / f"{name}.parquet") for name in ("books", "squad", "summaries"))
SUITES: dict[str, Mapping[str, Any]] = {
    "needles": {"name": "needles", "haystack": _BOOKS},
    "lists": {"name": "lists", "haystack": _BOOKS},
    "lines": {"name": "lines", "haystack": _BOOKS},
    "key_value": {"name": "key_value", "haystack": _BOOKS},
    "squad": {"name": "squad", "questions": _SQUAD, "haystack": _BOOKS},
    "summaries": {"name": "summaries", "documents": _SUMMARIES},
}
WRITTEN = {"squad": 5, "summaries": 5}
"""Suites of what people wrote: how many times as many cases of them, as a task has few kinds of questions or one."""

Layout = Callable[[Sequence[int], str], list[int]]
"""A document's token ids and a question about it as a prompt, up to where the answer starts."""


@dataclass(frozen=True)
class Asked:
    """A case of a suite and its prompt as token ids."""

    suite: Suite
    case: Case
    prompt: list[int]


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one file of the evaluation data."""
    rows: list[dict[str, Any]] = pq.read_table(DATA / f"{name}.parquet").to_pylist()
    return rows


def layout(model: str, tokenizer: Tokenizer) -> Layout:
    """That of training where the tokenizer is the recipe's, else the chat template of the model in the folder."""
    if tokenizer.token_to_id(DOCUMENT) is not None:
        return partial(prompt, tokenizer)
    chat = PromptTokenizer.from_pretrained(model)
    return lambda document, question: list(chat.encode(Prompt(tokenizer.decode(document), question)))


def mark(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token.

    Raises:
        ValueError: the tokenizer has none.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token}")
    return found


def prompt(tokenizer: Tokenizer, document: Sequence[int], question: str) -> list[int]:
    """The layout of training."""
    asked = tokenizer.encode(f" {question.strip()}", add_special_tokens=False).ids
    start, asks, answers = (mark(tokenizer, token) for token in (DOCUMENT, QUESTION, ANSWER))
    return [start, *document, asks, *asked, answers]


def draw_cases(
    tokenizer: Tokenizer, lay_out: Layout, suites: Sequence[Suite], lengths: Sequence[int], count: int
) -> Iterator[Asked]:
    """Every case: `count` of each task and length, more of what people wrote."""
    for suite in suites:
        for case in suite.cases(tokenizer, lengths, count * WRITTEN.get(suite.name, 1)):
            yield Asked(suite, case, lay_out(case.document, case.question))
