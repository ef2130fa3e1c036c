"""DocumentRow: one document's row in each of the two tables, good or failed, with one schema for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from corm_batch.audit.verification import Verification
from corm_batch.data.document import Document
from corm_batch.data.exploded import exploded
from corm_batch.data.schema import RESULT_NAMES, SOURCE_FILE, SOURCE_ROW
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import AnswerError
from corm_batch.harmless import in_utf8
from corm_batch.output.transcript import Transcript
from corm_batch.tasks.base import TaskResult

_SAID = "output", "finish_reason", "pieces"  # by a task, in columns that all results have
_SHARED = [figure.name for figure in fields(MemoryStats) if figure.name in RESULT_NAMES]


@dataclass(frozen=True)
class DocumentRow:
    """One document, answered or failed; the columns are those of `data/schema.py`.

    Attributes:
        result: the row of the results table, but for `committed_at`.
        memory: the row of the memory table.
    """

    result: Mapping[str, Any]
    memory: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the document was answered."""
        return bool(self.result["status"] == "ok")

    def verified(self, found: Verification, memory: MemoryStats) -> DocumentRow:
        """The row with what was found of its answer, and with all that the document has cost by now."""
        said, figures = asdict(found), asdict(memory)
        if found.verify_error is not None:
            said["verify_error"] = in_utf8(found.verify_error)
        shared = {name: figures[name] for name in _SHARED}
        return DocumentRow({**self.result, **shared, **said}, {**self.memory, **figures, **said})

    @property
    def unusable(self) -> str:
        """What is wrong with the answer that the model gave, or with fields of it; empty where nothing is, or where
        there is none."""
        if self.result["status"] == "failed":
            is_answer = self.result["error_type"] == AnswerError.__name__
            return f"{AnswerError.__name__}: {self.result['error_message']}" if is_answer else ""
        return "; ".join(f"{one['field']}: {one['reason']}" for one in self.result["failed_fields"] or ())

    def or_fallback(self, other: DocumentRow | None, problem: str, memory: MemoryStats) -> DocumentRow:
        """This row, whose answer is unusable, or an uncompressed cache's where that is worth more: an answer, or fewer
        fields that failed.

        Args:
            other: None where there is none.
            problem: why there is none.
            memory: what the document has cost by now.
        """
        better = other is not None and other._worth > self._worth
        stands, error = (other, self.unusable) if other is not None and better else (self, problem)
        if other is not None and not better:
            error = other.unusable or f"{other.result['error_type']}: {other.result['error_message']}"
        shared = {name: getattr(memory, name) for name in _SHARED}
        told = {"fallback": better, "fallback_error": in_utf8(error)}
        return DocumentRow({**stands.result, **shared, **told}, {**stands.memory, **asdict(memory)})

    @property
    def _worth(self) -> tuple[bool, int]:
        """What of two answers of one document the better one has more of."""
        return self.ok, -len(self.result.get("failed_fields") or ())

    @property
    def gone(self) -> bool:
        """Whether it says no more than that an earlier row of its id counts no longer."""
        return bool(self.result["status"] == "gone")


@dataclass(frozen=True)
class RowBuilder:
    """Makes the rows of one run.

    Attributes:
        run_id, fingerprint: columns of every row.
        result_schema, memory_schema: the tables' columns.
        constants: columns of the memory table that are the same for every document a replica answers.
        carried: columns of the source that every row has too, which the part's writer stores.
        exploded: list columns of which each entry has a row of its own; see `corm_batch.tasks.base.Task`.
    """

    run_id: str
    fingerprint: str
    result_schema: pa.Schema
    memory_schema: pa.Schema
    constants: Mapping[str, Any]
    exploded: Mapping[str, str] = field(default_factory=dict)
    carried: tuple[pa.Field, ...] = ()

    def stored(self, row: DocumentRow) -> list[Mapping[str, Any]]:
        """The document's rows of the results table, one but where each entry of its lists has its own."""
        return exploded(row.result, self.exploded, [field.name for field in self.carried])

    def with_constants(self, **constants: Any) -> RowBuilder:
        """The builder of one replica, whose `constants` join those of the run."""
        return replace(self, constants={**self.constants, **constants})

    def answered(
        self, document: Document, result: TaskResult, memory: MemoryStats, transcript: Transcript | None = None
    ) -> DocumentRow:
        """The row of a document with an answer, of which `transcript` is all the model wrote.

        Raises:
            AnswerError: the task's columns do not have the types it declared.
        """
        transcript = transcript or Transcript()
        values = {
            **self._identity(document, "ok"),
            **result.columns,
            "output": in_utf8(result.output),
            "finish_reason": result.finish_reason,
            "pieces": result.pieces,
            "truncated": transcript.truncated,
            "repetition": transcript.repetition,
            "reasoning_content": in_utf8(transcript.reasoning) or None,
            "failed_fields": [
                {"field": name, "reason": in_utf8(reason)} for name, reason in result.failed_fields.items()
            ]
            or None,
        }
        row = self._row(document, values, memory)
        if problem := self._problem(row.result):
            raise AnswerError(f"the task's columns cannot be stored: {problem}")
        return row

    def failed(
        self,
        document: Document,
        error_type: str,
        message: str,
        memory: MemoryStats | None = None,
        transcript: Transcript | None = None,
    ) -> DocumentRow:
        """The row of a document without an answer.

        Args:
            document, error_type, message: which, and why.
            memory: what was spent on it.
            transcript: what the model wrote about it all the same.
        """
        values = {
            **self._identity(document, "failed"),
            "error_type": error_type,
            "error_message": in_utf8(message) or error_type,
        }
        if transcript is not None and transcript.answers:
            values |= {
                "output": in_utf8(transcript.text) or None,
                "finish_reason": transcript.finish_reason,
                "pieces": len(transcript.answers),
                "truncated": transcript.truncated,
                "repetition": transcript.repetition,
            }
        return self._row(document, values, memory)

    def unusable(
        self, document: Document, error: AnswerError, memory: MemoryStats | None, transcript: Transcript
    ) -> DocumentRow:
        """The failed row of a document whose answer cannot be used: what of it is right is kept beside all of it."""
        row = self.failed(document, type(error).__name__, str(error), memory, transcript)
        kept = {**row.result, **error.columns}
        if error.output is not None:
            kept["output"] = in_utf8(error.output)
        return row if self._problem(kept) else replace(row, result=kept)

    def gone(self, doc_id: str) -> DocumentRow:
        """What takes the place of a failed row that went by where it stood, once no such row stands there any more."""
        return self._row(Document(doc_id, None), self._identity(Document(doc_id, None), "gone"), None)

    def _problem(self, result: Mapping[str, Any]) -> str | None:
        """Why what a task said of a row cannot be stored; None when it can."""
        said = [field for field in self.result_schema if field.name in _SAID or field.name not in RESULT_NAMES]
        try:
            pa.RecordBatch.from_pylist(exploded(result, self.exploded), schema=pa.schema(said))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            return str(error)
        return None

    def _identity(self, document: Document, status: str) -> dict[str, Any]:
        return {
            "doc_id": in_utf8(document.doc_id),
            "content_sha256": document.content_sha256,
            "fingerprint": self.fingerprint,
            "carried_sha256": document.carried_sha256,
            "run_id": self.run_id,
            "status": status,
            SOURCE_FILE.name: None if document.file is None else in_utf8(document.file),
            SOURCE_ROW.name: document.row,
            **document.carried,
        }

    def _row(self, document: Document, values: Mapping[str, Any], memory: MemoryStats | None) -> DocumentRow:
        figures = asdict(memory) if memory is not None else {}
        shared = {name: figures.get(name) for name in _SHARED}
        key = {"doc_id": values["doc_id"], "run_id": self.run_id}
        return DocumentRow(result={**values, **shared}, memory={**self.constants, **figures, **key})
