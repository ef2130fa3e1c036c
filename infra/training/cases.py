"""What the evaluation asks: prompts over held-out texts, each with the answers that count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from infra.training.compose import ANSWER, DOCUMENT, QUESTION, Composer, Ids, Instructions, common_words
from infra.training.facts import TASKS

DATA = Path(__file__).parent / "evaluation"
FACTS_TOKENS, SQUAD_TOKENS, SUMMARY_TOKENS = 64, 32, 256
"""New tokens at most."""
QUESTION_ROOM = 32
"""Tokens kept for a question; one that needs more is drawn again with its text."""
SQUAD_LENGTH = 4096
"""Tokens of the text that a paragraph is planted in."""


@dataclass(frozen=True)
class Case:
    """One prompt and what is expected.

    Attributes:
        group: what is run together and shares its memory figures.
        task: what is scored together within the group.
        prompt: token ids.
        answers: any of them counts.
        max_new_tokens: of the answer.
    """

    group: str
    task: str
    prompt: Ids
    answers: tuple[str, ...]
    max_new_tokens: int


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one file of the evaluation data."""
    rows: list[dict[str, Any]] = pq.read_table(DATA / f"{name}.parquet").to_pylist()
    return rows


def prompt(composer: Composer, document: Ids, question: str) -> Ids:
    """A document and a question about it, up to where the answer starts."""
    special = composer.special
    asked = composer.encode(f" {question.strip()}")
    return np.concatenate([special[DOCUMENT], document, special[QUESTION], asked, special[ANSWER]])


def facts_cases(composer: Composer, task: str, length: int, count: int) -> Iterator[Case]:
    """Cases of one task that fit `length` tokens, the answer included."""
    composer.random.seed(f"evaluation {task} {length}")
    while count:
        document, questions = composer.facts(length - FACTS_TOKENS - QUESTION_ROOM, task)
        question, answer = questions[0]
        ids = prompt(composer, document, question)
        if len(ids) + FACTS_TOKENS <= length and len(composer.encode(f" {answer}")) < FACTS_TOKENS:
            yield Case(f"facts {length}", task, ids, (answer,), FACTS_TOKENS)
            count -= 1


def squad_cases(composer: Composer, count: int) -> Iterator[Case]:
    """The first paragraphs, each alone and in a longer text."""
    composer.random.seed("evaluation squad")
    for row in read("squad")[:count]:
        alone, planted = composer.encode(row["context"]), composer.plant([row["context"]], SQUAD_LENGTH)
        for group, document in (("squad alone", alone), ("squad planted", planted)):
            ids = prompt(composer, document, row["question"])
            yield Case(group, group, ids, tuple(row["answers"]), SQUAD_TOKENS)


def summary_cases(composer: Composer, count: int) -> Iterator[Case]:
    """The first documents of each task."""
    left: dict[str, int] = defaultdict(lambda: count)
    for row in read("summaries"):
        if left[row["task"]]:
            left[row["task"]] -= 1
            ids = prompt(composer, composer.encode(row["document"]), row["prompt"])
            yield Case("summaries", row["task"], ids, tuple(row["answers"]), SUMMARY_TOKENS)


def draw_cases(tokenizer: Tokenizer, lengths: Sequence[int], count: int) -> list[Case]:
    """Every case: `count` of each task and length, five times as many of what people wrote."""
    text = "\n\n".join(row["text"] for row in read("books") if row["kind"] == "haystack")
    haystack = np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.uint16)
    composer = Composer(tokenizer, haystack, common_words(tokenizer, haystack), Instructions([], []), 0)
    facts = (
        case for length in lengths for task in TASKS for case in facts_cases(composer, task.__name__, length, count)
    )
    return [*facts, *squad_cases(composer, 5 * count), *summary_cases(composer, 5 * count)]
