"""Tables of kvpress' evaluations: context, question, answer_prefix, answer, max_new_tokens, some with a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.metrics import METRICS, Metric, best, contains
from corm_batch.evaluation.rows import Row, first_of_each, read_rows

_COLUMNS = ("context", "question", "answer_prefix", "answer", "max_new_tokens")


class KVPress(Suite, name="kvpress"):
    """A table of kvpress' evaluations, each answer begun with its answer_prefix."""

    shares = ("exact", "contains")

    uri: File = Field(description=f"Parquet, JSON Lines or CSV with the columns {', '.join(_COLUMNS)}")
    metric: Metric | None = Field(
        None, description="against the best of the answers; default: the share of the answers that the text contains"
    )

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` rows of each task; only the file matters beside."""
        rows = read_rows(self.uri, _COLUMNS)
        for task, row in first_of_each(rows, lambda row: str(row.values.get("task") or self.name), count):
            context, question, prefix = (row.text(name) for name in _COLUMNS[:3])
            yield Case(self.name, task, context, question, row.texts("answer"), _most(row), prefix)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """The metric, or of all the answers the share that the text contains."""
        if self.metric is not None:
            return {self.metric: best(METRICS[self.metric], text, case.answers)}
        return {"contained": sum(contains(text, one) for one in case.answers) / len(case.answers)}


def _most(row: Row) -> int:
    value = row.values["max_new_tokens"]
    if isinstance(value, str) and value.isdecimal():  # of a CSV file
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SourceError(f"{row.origin}: max_new_tokens: expected a whole number above 0, got {value!r}")
    return value
