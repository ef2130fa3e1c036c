"""Summaries: documents, what was asked about each and what people wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.metrics import best, degenerate, rouge_l, words
from corm_batch.evaluation.rows import first_of_each, read_rows

_ANSWER_TOKENS = 256


class Summaries(Suite, name="summaries"):
    """Summaries beside those that people wrote."""

    shares = ("degenerate",)
    documents: File = Field(description="file with the columns task, document, prompt and answers")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` documents of each task; only the file matters beside."""
        rows = read_rows(self.documents, ["task", "document", "prompt", "answers"])
        for task, row in first_of_each(rows, lambda row: row.text("task"), count):
            prompt, answers = row.text("prompt"), row.texts("answers")
            yield Case("summaries", task, row.text("document"), prompt, answers, _ANSWER_TOKENS)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """ROUGE-L, words, and whether nothing is said or the same over and over."""
        return {
            "rouge_l": best(rouge_l, text, case.answers),
            "words": float(len(words(text))),
            "degenerate": float(degenerate(text)),
        }
