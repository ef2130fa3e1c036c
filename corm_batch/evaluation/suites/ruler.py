"""RULER's files, as its own scripts write them: JSON Lines with index, input, outputs and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from corm_batch.errors import SourceError
from corm_batch.evaluation.base import Case, File, Suite, Tokenizer
from corm_batch.evaluation.metrics import best, contains
from corm_batch.evaluation.rows import Row, first_of_each, read_rows

_MOST_TOKENS = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
"""Of an answer, by how the task's name begins."""


class Ruler(Suite, name="ruler"):
    """RULER's tasks from its JSON Lines files, one folder or file a task."""

    shares = ()

    uri: File = Field(description="a .jsonl file, or a folder with one below a folder of each task's name")

    def cases(
        self,
        tokenizer: Tokenizer,
        lengths: Sequence[int],
        count: int,
        seed: int | str = "evaluation",
        texts: Sequence[str] = (),
    ) -> Iterator[Case]:
        """The first `count` rows of each task and length as the files have them."""
        rows = read_rows(self.uri, ["index", "input", "outputs", "length"])
        for (group, task), row in first_of_each(rows, lambda row: (_group(row), _task(row)), count):
            most = _MOST_TOKENS[task.partition("_")[0]]
            prefix = str(row.values.get("answer_prefix") or "")
            yield Case(group, task, row.text("input"), "", row.texts("outputs"), most, prefix)

    def score(self, case: Case, text: str) -> Mapping[str, float]:
        """RULER's string match: the share of the references that the text contains; of questions, whether any is."""
        if case.task.startswith("qa"):
            return {"string_match": best(contains, text, case.answers)}
        return {"string_match": sum(contains(text, one) for one in case.answers) / len(case.answers)}


def _task(row: Row) -> str:
    """The name of the folder or file that is called like one of RULER's tasks.

    Raises:
        SourceError: there is none.
    """
    names = [part.partition(".")[0] for part in reversed(row.file.split("/"))]
    for name in names:
        if name.partition("_")[0] in _MOST_TOKENS:
            return name
    raise SourceError(
        f"{row.file}: neither the file nor a folder above it is called like a task, such as niah_single_1; their names "
        f"begin with {', '.join(_MOST_TOKENS)}"
    )


def _group(row: Row) -> str:
    """The length that a folder is called by, as RULER's scripts do."""
    lengths = [part for part in row.file.split("/")[:-1] if part.isdecimal()]
    return f"ruler {lengths[-1]}" if lengths else "ruler"
