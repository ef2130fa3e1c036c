"""Summaries: documents, what was asked about each and what people wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.evaluation.base import Case, Suite, Tokenizer, rows
from corm_batch.evaluation.fact_suite import File
from corm_batch.evaluation.metrics import best, degenerate, rouge_l, words

_ANSWER_TOKENS = 256


class Summaries(Suite, name="summaries"):
    """Summaries beside those that people wrote."""

    shares = ("degenerate",)
    documents: File = Field(description="Parquet file with the columns task, document, prompt and answers")

    def cases(
        self, tokenizer: Tokenizer, lengths: Sequence[int], count: int, seed: int | str = "evaluation"
    ) -> Iterator[Case]:
        """The first `count` documents of each task; `lengths` and `seed` do not matter."""
        drawn: Counter[str] = Counter()
        for row in rows(self.documents, ["task", "document", "prompt", "answers"]):
            if drawn[row["task"]] < count:
                drawn[row["task"]] += 1
                document = self.encode(tokenizer, row["document"])
                yield Case("summaries", row["task"], document, row["prompt"], tuple(row["answers"]), _ANSWER_TOKENS)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """ROUGE-L, words, and whether nothing is said or the same over and over."""
        return {
            "rouge_l": best(rouge_l, text, case.answers),
            "words": float(len(words(text))),
            "degenerate": float(degenerate(text)),
        }
