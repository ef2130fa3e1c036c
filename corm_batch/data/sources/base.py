"""Source: documents in. A source names its splits without reading them, then reads one split at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corm_batch.data.document import Document
from corm_batch.registry import Plugin


@dataclass(frozen=True)
class Split:
    """One unit of reading: a row group of a Parquet file, a range of lines.

    Attributes:
        uri: the file.
        index: which piece of the file.
        num_rows: rows in it; -1 when unknown without reading; 0 when there are none, or none can be read.
        error: why nothing of the file can be read; `read` raises it.
    """

    uri: str
    index: int
    num_rows: int = -1
    error: str | None = None


class Source(Plugin, kind="source", package="corm_batch.data.sources"):
    """Where documents come from."""

    @property
    def place(self) -> str:
        """What it reads, for messages: its `uri`, where it has one, else its name."""
        return str(getattr(self, "uri", self.name))

    @abstractmethod
    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """Every unit of reading, in a fixed order; that of a file which cannot be read, or lacks a column, says so.

        Raises:
            SourceError: nothing there, or the place cannot be read.
            SpecError: no file has `columns` beside the id and the text.
        """

    def would_read(self, uri: str) -> bool:
        """Whether a file at `uri`, an absolute path or an s3:// URI, would be read as documents if it were there."""
        return False

    @abstractmethod
    def read(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """The documents of one split, `columns` filled in beside the text.

        A row that cannot be used (null or undecodable text, no id) is yielded with its `problem`.

        Raises:
            FileError: the file cannot be read, or not beyond what was yielded; splits of other files can.
            SourceError: the place it lies in cannot be read any more.
        """
