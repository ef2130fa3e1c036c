"""LongBench's files as published: JSON Lines with input, context, answers, length, dataset, language, all_classes, _id.

Prompts, lengths of answers and metrics are LongBench's, with these deviations: the context stands first and all of the
instruction behind it, within the model's chat template, as a job lays a prompt out; a context that does not fit is a
failed case, not cut in the middle. Datasets in Chinese, whose metrics take a word segmenter, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from pydantic import Field

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.metrics import best, rouge_l, squad_f1
from corm_batch.evaluation.rows import Row, first_of_each, read_rows

_COLUMNS = ("input", "context", "answers", "length", "dataset", "language", "all_classes", "_id")
_QA = "Answer the question based on the text above. Only give me the answer and do not output any other words.\n\n"
_PASSAGES = "Answer the question based on the passages above. " + _QA.partition("above. ")[2]


def _numbers(got: str, answer: str) -> float:
    """Of the numbers in the text, the share that are the answer's."""
    wanted, found = re.findall(r"\d+", answer), re.findall(r"\d+", got)
    return sum(number == wanted[0] for number in found) / len(found) if found and wanted else 0.0


def _code(got: str, answer: str) -> float:
    """How alike the first line that is no comment is, 0..1."""
    lines = [line for line in got.lstrip("\n").split("\n") if not any(mark in line for mark in ("`", "#", "//"))]
    return round(100 * SequenceMatcher(None, lines[0] if lines else "", answer).ratio()) / 100


@dataclass(frozen=True)
class Dataset:
    """How one dataset is asked and scored.

    Attributes:
        instruction: behind the context; `{input}` is the row's.
        max_new_tokens: of an answer.
        metric: its name and itself; None where a row's classes are matched.
        first_line: only the answer's first line is scored.
    """

    instruction: str
    max_new_tokens: int
    metric: tuple[str, Callable[[str, str], float]] | None
    first_line: bool = False


_F1, _ROUGE = ("f1", squad_f1), ("rouge_l", rouge_l)
DATASETS = {
    "narrativeqa": Dataset(
        "Answer the question based on the story above as concisely as you can, using a single phrase if possible. Do "
        "not provide any explanation.\n\nQuestion: {input}\n\nAnswer:", 128, _F1,
    ),
    "qasper": Dataset(
        "Answer the question based on the scientific article above as concisely as you can, using a single phrase or "
        'sentence if possible. If the question cannot be answered based on the information in the article, write '
        '"unanswerable". If the question is a yes/no question, answer "yes", "no", or "unanswerable". Do not provide '
        "any explanation.\n\nQuestion: {input}\n\nAnswer:", 128, _F1,
    ),
    "multifieldqa_en": Dataset(f"{_QA}Question: {{input}}\nAnswer:", 64, _F1),
    "hotpotqa": Dataset(f"{_PASSAGES}Question: {{input}}\nAnswer:", 32, _F1),
    "2wikimqa": Dataset(f"{_PASSAGES}Question: {{input}}\nAnswer:", 32, _F1),
    "musique": Dataset(f"{_PASSAGES}Question: {{input}}\nAnswer:", 32, _F1),
    "gov_report": Dataset("Write a one-page summary of the report above.\n\nSummary:", 512, _ROUGE),
    "qmsum": Dataset(
        "Answer the query based on the meeting transcript above in one or more sentences.\n\nQuery: {input}\nAnswer:",
        512, _ROUGE,
    ),
    "multi_news": Dataset("Write a one-page summary of all the news above.\n\nSummary:", 512, _ROUGE),
    "trec": Dataset("Determine the type of the question below. Here are some examples above.\n{input}", 64, None, True),
    "triviaqa": Dataset(
        "Answer the question based on the given passage. Only give me the answer and do not output any other words. "
        "Some examples are above.\n\n{input}", 32, _F1, True,
    ),
    "samsum": Dataset(
        "Summarize the dialogue into a few short sentences. Some examples are above.\n\n{input}", 128, _ROUGE, True
    ),
    "passage_count": Dataset(
        "There are some paragraphs above sourced from Wikipedia. Some of them may be duplicates. How many unique "
        "paragraphs are there after removing duplicates? Answer with the number alone.\n\nThe final answer is: ",
        32, ("numbers", _numbers),
    ),
    "passage_retrieval_en": Dataset(
        "The following is an abstract.\n\n{input}\n\nEnter the number of the paragraph above that the abstract is "
        'from, in the format "Paragraph 1", "Paragraph 2", and so on.\n\nThe answer is: ', 32, ("numbers", _numbers),
    ),
    "lcc": Dataset("Write the next line of the code above.\n", 64, ("similarity", _code)),
    "repobench-p": Dataset("{input}Write the next line of the code above.\n", 64, ("similarity", _code)),
}  # fmt: skip
"""LongBench's datasets in English and code, by their names in the files."""


class LongBench(Suite, name="longbench"):
    """LongBench's datasets from its JSON Lines files."""

    shares = ()

    uri: File = Field(description="a .jsonl file of LongBench or LongBench-E, or a folder of them")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` rows of each dataset; only the file matters beside."""
        for name, row in first_of_each(read_rows(self.uri, _COLUMNS), _dataset, count):
            known = DATASETS[name]
            question = known.instruction.replace("{input}", row.text("input"))
            choices = row.texts("all_classes") if known.metric is None else ()
            yield Case(
                f"longbench {name}", name, row.text("context"), question, row.texts("answers"), known.max_new_tokens,
                choices=choices,
            )  # fmt: skip

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """The dataset's own metric, against the answer that fits best."""
        known = DATASETS[case.task]
        text = text.lstrip("\n").split("\n")[0] if known.first_line else text
        if known.metric is None:
            return {"accuracy": max(_classified(text, answer, case.choices) for answer in case.answers)}
        name, metric = known.metric
        return {name: best(metric, text, case.answers)}


def _dataset(row: Row) -> str:
    """Which of `DATASETS` a row is of.

    Raises:
        SourceError: none of them.
    """
    name = row.text("dataset").removesuffix("_e")
    if name not in DATASETS:
        raise SourceError(f"{row.origin}: dataset: got {name!r}, there are: {', '.join(DATASETS)}")
    return name


def _classified(text: str, answer: str, classes: Sequence[str]) -> float:
    """1 over the number of classes that the text names, where the answer is one of them."""
    named = [one for one in classes if one in text]
    named = [one for one in named if one == answer or one not in answer]
    return 1 / len(named) if answer in named else 0.0
