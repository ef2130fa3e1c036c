"""AnswerStore: what models have answered, case by case, in Parquet files: nothing is answered twice.

An answer is found by its case (what was asked, token by token) and its run (the model, the policy and every setting
that changes answers). Files are only ever added, each whole; several evaluations may write side by side.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa
import pyarrow.parquet as pq

from corm_batch.data.filesystem import list_files, read_whole, write_whole
from corm_batch.data.schema import FIGURES
from corm_batch.engine.figures import MemoryStats
from corm_batch.engine.request import Completion
from corm_batch.errors import SourceError

_WRITE_EVERY_S = 20.0
_SCHEMA = pa.schema(
    [
        ("run", pa.string()), ("case", pa.string()), ("text", pa.string()), ("token_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()), ("logprobs", pa.list_(pa.float64())),
        ("best_logprobs", pa.list_(pa.float64())), ("mean_logprob", pa.float64()), *FIGURES.values(),
    ]
)  # fmt: skip


def case_key(
    max_new_tokens: int, prompt: Sequence[int], answer_ids: Sequence[int] | None, num_read_first: int = 0
) -> str:
    """Says what is asked, token by token: a prompt to answer, or an answer to score; and of a prompt how many tokens
    are read, and compressed, before the others are known."""
    asked = [max_new_tokens, list(map(int, prompt)), None if answer_ids is None else list(answer_ids)]
    content = json.dumps(asked + [num_read_first] * (num_read_first > 0))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Answered:
    """What one run answered to one case.

    Attributes:
        case: its key.
        text: without special tokens and blanks around it; empty where an answer was scored.
        token_ids: all of them.
        finish_reason: "stop" or "length"; "error" where there is no answer.
        logprobs, best_logprobs: of the tokens of an answer that was scored, and of the likeliest token at each place,
            in nats; none where the model answered.
        mean_logprob: of the tokens of an answer, as they were when the model wrote it; None where one was scored.
        error: why there is no answer; None where there is one.
        memory: what it cost.
    """

    case: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "error"
    logprobs: tuple[float, ...] = ()
    best_logprobs: tuple[float, ...] = ()
    mean_logprob: float | None = None
    error: str | None = None
    memory: MemoryStats = field(default_factory=MemoryStats)

    @classmethod
    def scored(cls, case: str, done: Completion) -> Answered:
        """An answer that was given, and how likely its tokens were found."""
        assert done.scores is not None
        return cls(
            case, "", done.token_ids, done.finish_reason, done.scores.logprobs, done.scores.best_logprobs,
            memory=done.memory,
        )  # fmt: skip


class AnswerStore:
    """The answers in one folder, local or s3://.

    Args:
        uri: the folder; it need not be there.

    Raises:
        SourceError: a file in it cannot be read; the message says what to do.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")
        self._found: dict[str, dict[str, Answered]] = {}
        self._noted: dict[str, list[Answered]] = {}
        self._written = time.monotonic()
        for file in list_files(self._uri, (".parquet",)):
            for row in _rows(file):
                self._keep(str(row["run"]), _answered(row))

    def of(self, run: str) -> dict[str, Answered]:
        """Answers of a run by case."""
        return dict(self._found.get(run, {}))

    def add(self, run: str, answers: Iterable[Answered]) -> None:
        """Write answers down; those without an answer are left out, so that they are tried again.

        Raises:
            OutputError: they cannot be written.
        """
        given = [answer for answer in answers if answer.error is None]
        if not given:
            return
        rows = [
            {"run": run, **{name: getattr(answer, name) for name in _SCHEMA.names if hasattr(answer, name)}}
            | asdict(answer.memory)
            for answer in given
        ]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd", write_page_checksum=True)
        write_whole(f"{self._uri}/{run}-{uuid.uuid4().hex[:12]}.parquet", sink.getvalue().to_pybytes())
        for answer in given:
            self._keep(run, answer)

    def note(self, run: str, answer: Answered) -> bool:
        """Have an answer written down with those that come within some seconds; true when that was done just now.

        Raises:
            OutputError: as `add`.
        """
        self._noted.setdefault(run, []).append(answer)
        due = time.monotonic() - self._written > _WRITE_EVERY_S
        if due:
            self.flush()
        return due

    def flush(self) -> None:
        """Write down what was noted.

        Raises:
            OutputError: as `add`.
        """
        for run in list(self._noted):
            self.add(run, self._noted[run])
            del self._noted[run]  # not before: what cannot be written now may be in the end
        self._written = time.monotonic()

    def _keep(self, run: str, answer: Answered) -> None:
        self._found.setdefault(run, {})[answer.case] = answer


def _rows(file: str) -> list[dict[str, object]]:
    try:
        found: list[dict[str, object]] = pq.read_table(
            pa.BufferReader(read_whole(file)), schema=_SCHEMA, page_checksum_verification=True
        ).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: not whole: delete it, and its cases are answered again: {error}") from error
    return found


def _answered(row: dict[str, object]) -> Answered:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    memory = MemoryStats(**{name: values[name] for name in FIGURES})  # type: ignore[arg-type]
    own = {own.name: values[own.name] for own in fields(Answered) if own.name in values}
    return Answered(**own, memory=memory)  # type: ignore[arg-type]
