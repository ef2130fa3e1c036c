"""Make jobs/released/documents.parquet: parts of articles with a question about each, and abstracts to sum up.

    python -m infra.models.documents

From the held-out texts in infra/training/evaluation. The same ones give the same file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
TEXTS = ROOT / "infra/training/evaluation"
MOST_CHARACTERS = 2_600
"""Of an article, paragraphs around the one that is asked about."""
BRIEFLY = "Answer with a few words from the text."
QUESTIONS = {
    "University_of_Chicago": (
        f"When was the University of Chicago established? {BRIEFLY}",
        "The University of Chicago was established in 1890, and it is a private research university in Chicago.",
    ),
    "Jacksonville,_Florida": (
        "What was the Jacksonville fire later known as?",
        "The Jacksonville fire is known as the Great Fire of 1901.",
    ),
    "Geology": (
        "First published by Sir Charles Lyell in 1830 this book was called what?",
        "The book titled Principles of Geology was originally published by Charles Lyell in 1830.",
    ),
    "Victoria_(Australia)": (
        "How high is Victoria's Mount Bogong?",
        "Victoria's Mount Bogong is the highest peak in Victoria, at 1,986 meters (6,516 ft) above sea level.",
    ),
    "Harvard_University": (
        "What was the first year that Yale and Harvard played football?",
        "The first year that Yale and Harvard played football is 1875.",
    ),
    "Steam_engine": (
        f"In what year was HMS Dreadnought launched? {BRIEFLY}",
        "The answer to this question is: 1905",
    ),
}
"""Question of SQuAD, and what the model of the package says with every entry kept, in float32 on a CPU, by article.

Of 14 questions tried, with and without `BRIEFLY`, these are ones that it answers.
"""
SUMMARIES = ("tldr-HklfNQFL8H", "tldr-rylBK34FDS")
"""Two of the quick start's four abstracts: of another the model says the same over and over, of the last too much."""
COLUMNS = ("doc_id", "text", "question", "expected", "kind", "source", "license", "title")


def article(paragraphs: list[str], asked: int) -> str:
    """The paragraph asked about and as many around it as fit, those before it first, in their order."""
    first = last = asked

    def fits(first: int, last: int) -> bool:
        return first >= 0 and last < len(paragraphs) and sum(map(len, paragraphs[first : last + 1])) < MOST_CHARACTERS

    while fits(first - 1, last) or fits(first, last + 1):
        first, last = (first - 1, last) if fits(first - 1, last) else (first, last + 1)
    return "\n\n".join(paragraphs[first : last + 1])


def question_row(rows: list[dict[str, Any]], title: str, question: str, answer: str) -> dict[str, str]:
    """An article of SQuAD and one question about it."""
    paragraphs = list(dict.fromkeys(row["context"] for row in rows if row["title"] == title))
    (case,) = (row for row in rows if row["title"] == title and question.startswith(row["question"]))
    return {
        "doc_id": f"squad:{title}",
        "text": article(paragraphs, paragraphs.index(case["context"])),
        "question": question,
        "expected": answer,
        "kind": "question",
        "source": case["source"],
        "license": case["license"],
        "title": title.replace("_", " "),
    }


def summary_row(case: dict[str, Any]) -> dict[str, str | None]:
    """An abstract to sum up: no answer is the right one."""
    text = case["document"].strip()
    return {
        "doc_id": f"scitldr:{case['case_id'].removeprefix('tldr-')}",
        "text": text,
        "question": "Give a one-sentence summary.",
        "expected": None,
        "kind": "summary",
        "source": case["source"],
        "license": case["license"],
        "title": text.partition("\n")[0],
    }


def main() -> None:
    """Write the file."""
    squad = pq.read_table(TEXTS / "squad.parquet").to_pylist()
    cases = {case["case_id"]: case for case in pq.read_table(TEXTS / "summaries.parquet").to_pylist()}
    rows = [
        *(question_row(squad, title, *asked) for title, asked in QUESTIONS.items()),
        *(summary_row(cases[one]) for one in SUMMARIES),
    ]
    path = ROOT / "jobs/released/documents.parquet"
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
