"""SQuAD: questions that people asked about a paragraph, alone and planted in a long text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.evaluation.base import Case, Suite, Tokenizer, rows
from corm_batch.evaluation.fact_suite import File, open_haystack
from corm_batch.evaluation.metrics import best, squad_exact, squad_f1

_ANSWER_TOKENS = 32


class Squad(Suite, name="squad"):
    """SQuAD's questions, their paragraph alone and planted in a long text."""

    questions: File = Field(description="Parquet file with the columns context, question and answers")
    haystack: File = Field(description="Parquet file of the text around the paragraph: columns kind and text")
    planted_tokens: int = Field(4096, ge=64, description="tokens of the text that a paragraph is planted in")

    def cases(
        self, tokenizer: Tokenizer, lengths: Sequence[int], count: int, seed: int | str = "evaluation"
    ) -> Iterator[Case]:
        """The first `count` questions, each twice; `lengths` do not matter."""
        haystack = open_haystack(tokenizer, self.haystack, f"{seed} squad")
        for row in rows(self.questions, ["context", "question", "answers"])[:count]:
            alone = self.encode(tokenizer, row["context"])
            planted = tuple(haystack.plant([row["context"]], self.planted_tokens).tolist())
            for group, document in (("squad alone", alone), ("squad planted", planted)):
                yield Case(group, group, document, row["question"], tuple(row["answers"]), _ANSWER_TOKENS)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """SQuAD's exact match and F1, against the answer that fits best."""
        return {"exact": best(squad_exact, text, case.answers), "f1": best(squad_f1, text, case.answers)}
