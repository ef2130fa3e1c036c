"""What the evaluation asks: cases of the suites over held-out texts, laid out by the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from corm_batch.evaluation.asking import Asked, lay_out
from corm_batch.evaluation.base import Suite
from corm_batch.text.layout import DocumentRole
from corm_batch.text.tokenize import PromptTokenizer
from infra.training.compose import DOCUMENT

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


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one file of the evaluation data."""
    rows: list[dict[str, Any]] = pq.read_table(DATA / f"{name}.parquet").to_pylist()
    return rows


def prompt_tokenizer(model: str) -> PromptTokenizer:
    """The tokenizer of the model in a folder, with a message of its own for the document where the model knows one."""
    found = PromptTokenizer.from_pretrained(model)
    role: DocumentRole = "document" if DOCUMENT in found.vocabulary else "user"
    return found if role == "user" else PromptTokenizer.from_pretrained(model, document_role=role)


def draw_cases(
    tokenizer: PromptTokenizer, suites: Sequence[Suite], lengths: Sequence[int], count: int
) -> Iterator[Asked]:
    """Every case: `count` of each task and length, more of what people wrote."""
    for suite in suites:
        yield from lay_out({suite.name: suite}, tokenizer, lengths, count * WRITTEN.get(suite.name, 1))
