"""A table of the user's own: documents, questions about them and what is expected, in columns of any names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.metrics import METRICS, Metric, best
from corm_batch.evaluation.rows import first_of_each, read_rows, says_something


class Table(Suite, name="table"):
    """Questions and expected answers of the user's own."""

    shares = ("exact", "contains")

    uri: File = Field(description="Parquet, JSON Lines or CSV, a file, a folder or a glob")
    text: str = Field("text", min_length=1, description="column of the document")
    question: str = Field("question", min_length=1, description="column of what is asked about it")
    expected: str = Field(
        "expected", min_length=1, description="column of the right answer, or a list of which any counts"
    )
    task: str | None = Field(None, description="column of the task a row belongs to; default: all are one")
    metric: Metric = Field("exact", description="what an answer is worth against the best of those expected")
    max_new_tokens: int = Field(64, ge=1, description="tokens of an answer at most")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` rows of each task that expect something; only the file matters beside."""
        columns = [self.text, self.question, self.expected, *([self.task] if self.task else [])]
        known = [row for row in read_rows(self.uri, columns) if says_something(row.values[self.expected])]
        if not known:
            raise SourceError(f"{self.uri}: no row expects anything in its column {self.expected!r}")
        for task, row in first_of_each(known, lambda row: row.text(self.task) if self.task else self.name, count):
            answers = row.texts(self.expected)
            yield Case(self.name, task, row.text(self.text), row.text(self.question), answers, self.max_new_tokens)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """The metric, against the answer that fits best."""
        return {self.metric: best(METRICS[self.metric], text, case.answers)}
