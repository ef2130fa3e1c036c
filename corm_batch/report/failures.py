"""Failures: failed documents by error type, and in it by message, a bounded number of each."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

_ERROR_TYPES, _MESSAGES, _IDS, _MESSAGE_CHARS = 20, 10, 3, 500
_NUMBER = "[0-9]+(?:[.,][0-9]+)*"


@dataclass(frozen=True)
class Message:
    """One error message: how many documents failed with it, and the first of them.

    Messages that differ only in numbers are one; `text` is what the first document's says.
    """

    text: str
    documents: int
    doc_ids: tuple[str, ...]


@dataclass(frozen=True)
class FailureReasons:
    """Failed documents of one error type; `messages` are the commonest of `num_messages`."""

    error_type: str
    documents: int
    num_messages: int
    messages: tuple[Message, ...]


def failure_reasons(failed: pa.Table) -> tuple[FailureReasons, ...]:
    """Why these rows failed, the commonest error types first."""
    message = pc.utf8_slice_codeunits(pc.fill_null(failed["error_message"], ""), 0, _MESSAGE_CHARS)
    columns = {
        "type": pc.fill_null(failed["error_type"], "-"),
        "message": message,
        "pattern": pc.replace_substring_regex(message, _NUMBER, "0"),
        "doc_id": failed["doc_id"],
    }
    failed = pa.table(columns)
    return tuple(
        FailureReasons(error_type, documents, *_messages(failed.filter(pc.equal(failed["type"], error_type))))
        for error_type, documents in _commonest(failed["type"])[:_ERROR_TYPES]
    )


def _messages(failed: pa.Table) -> tuple[int, tuple[Message, ...]]:
    """How many different messages there are, and the commonest."""
    counted = _commonest(failed["pattern"])
    found = []
    for pattern, documents in counted[:_MESSAGES]:
        first = failed.filter(pc.equal(failed["pattern"], pattern)).slice(0, _IDS)
        found.append(Message(first["message"][0].as_py(), documents, tuple(first["doc_id"].to_pylist())))
    return len(counted), tuple(found)


def _commonest(column: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Values and how often each occurs, the commonest first."""
    counts = [(entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()]
    return sorted(counts, key=lambda entry: (-entry[1], entry[0]))
