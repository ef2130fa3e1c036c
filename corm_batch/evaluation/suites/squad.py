"""SQuAD: questions that people asked about a paragraph, alone and planted in a long text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pydantic import Field

from corm_batch.evaluation.base import Case, File, Tokenizer
from corm_batch.evaluation.fact_suite import HaystackSuite, open_haystack
from corm_batch.evaluation.metrics import best, squad_exact, squad_f1
from corm_batch.evaluation.rows import read_rows

_ANSWER_TOKENS = 32


class Squad(HaystackSuite, name="squad"):
    """SQuAD's questions, their paragraph alone and planted in a long text."""

    questions: File = Field(description="file with the columns context, question and answers")
    planted_tokens: int = Field(4096, ge=64, description="tokens of the text that a paragraph is planted in")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` questions, each twice; `lengths` do not matter."""
        haystack = open_haystack(tokenizer, self.haystack, texts, f"{seed} squad")
        for row in islice(read_rows(self.questions, ["context", "question", "answers"]), count):
            alone, question, answers = row.text("context"), row.text("question"), row.texts("answers")
            planted = haystack.decode(haystack.plant([alone], self.planted_tokens))
            for group, document in (("squad alone", alone), ("squad planted", planted)):
                yield Case(group, group, document, question, answers, _ANSWER_TOKENS)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """SQuAD's exact match and F1, against the answer that fits best."""
        return {"exact": best(squad_exact, text, case.answers), "f1": best(squad_f1, text, case.answers)}
