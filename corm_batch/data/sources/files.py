"""FileSource: what every source made of files shares: where they lie, what it reads, what makes a row usable.

Knows nothing of a file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from pydantic import Field

from corm_batch.data.document import Document
from corm_batch.data.filesystem import list_files
from corm_batch.data.sources.base import Source, Split
from corm_batch.data.uri import Uri
from corm_batch.errors import SourceError

_LOOK_AT_ONCE = 16
_NAMED_AT_MOST = 20


class FileSource(Source):
    """Documents in files of one format: one file, a folder or a glob, local or on S3."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    uri: Uri = Field(description="a file, a folder or a glob; a relative path counts from the current directory")
    id_column: str = Field("doc_id", min_length=1, description="unique for every document; text or whole numbers")
    text_column: str = Field("text", min_length=1, description="the document")

    def wanted(self, columns: Sequence[str]) -> list[str]:
        """Every column to read, each once."""
        return list(dict.fromkeys([self.id_column, self.text_column, *columns]))

    def splits_of_files(self, look: Callable[[str], Iterable[Split]]) -> list[Split]:
        """What `look` finds in each file, in the order of the files' names.

        Raises:
            SourceError: no files, no documents in them, or `look` raised it for some (all of them are named).
        """
        files = list_files(self.uri, self.suffixes)
        if not files:
            raise SourceError(f"source.uri: no files ({', '.join(self.suffixes)}) found at {self.uri}")
        errors: list[SourceError] = []

        def looked(uri: str) -> list[Split]:
            try:
                return list(look(uri))
            except SourceError as error:
                errors.append(error)
                return []

        with ThreadPoolExecutor(_LOOK_AT_ONCE) as pool:
            splits = [split for found in pool.map(looked, files) for split in found]
        if errors:
            messages = sorted(str(error) for error in errors)
            more = [f"... and {len(messages) - _NAMED_AT_MOST} more files"] if len(messages) > _NAMED_AT_MOST else []
            raise SourceError("\n".join(messages[:_NAMED_AT_MOST] + more))
        if not splits:
            raise SourceError(f"source.uri: no documents in the {len(files)} files found at {self.uri}")
        return splits

    def document(self, row: Mapping[str, Any], columns: Sequence[str], origin: str) -> Document:
        """The document of one row: column name to value, or to the UnicodeError that reading it raised.

        A row without a usable id gets `origin` for one.
        """
        problems = []
        doc_id = _usable_id(row[self.id_column])
        if doc_id is None:
            problems.append(f"column {self.id_column!r} holds no usable id")
        text = row[self.text_column]
        if problem := _text_problem(text):
            problems.append(f"column {self.text_column!r} {problem}")
        extra = {name: row[name] for name in columns}
        for name, value in extra.items():
            if isinstance(value, UnicodeError) or (isinstance(value, str) and _lone_surrogate(value)):
                problems.append(f"column {name!r} holds invalid UTF-8")
                extra[name] = None
        return Document(
            doc_id=doc_id or origin,
            text=None if problems else text,
            columns=extra,
            problem=f"{origin}: {'; '.join(problems)}" if problems else None,
            origin=origin,
        )


def _usable_id(value: Any) -> str | None:
    """`value` as a document id; None when it cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value and not _lone_surrogate(value) else None


def _text_problem(text: Any) -> str | None:
    """Why `text` cannot be asked about; None when it can."""
    if text is None:
        return "is null"
    if isinstance(text, UnicodeError):
        return f"holds invalid UTF-8 ({text})"
    if not isinstance(text, str):
        return f"holds no text but {type(text).__name__}"
    if not text.strip():
        return "is empty"
    return "holds invalid UTF-8 (half a surrogate pair)" if _lone_surrogate(text) else None


def _lone_surrogate(text: str) -> bool:
    """Whether `text` holds half a surrogate pair, which JSON can spell but no UTF-8 can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
