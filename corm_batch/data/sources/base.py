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
        num_rows: rows in it; -1 when unknown without reading.
    """

    uri: str
    index: int
    num_rows: int = -1


class Source(Plugin, kind="source", package="corm_batch.data.sources"):
    """Where documents come from."""

    @abstractmethod
    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """Every unit of reading, in a fixed order, once it is sure that `columns` can be read beside the text.

        Raises:
            SourceError: nothing there, a file that cannot be read, or a column that is missing. Every such file is
                named: it is found before any work is done, and no document of another file is passed over in silence.
        """

    @abstractmethod
    def read(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """The documents of one split, `columns` filled in beside the text.

        A row that cannot be used (null or undecodable text, no id) is yielded with its `problem`.

        Raises:
            SourceError: the split cannot be read at all, or a column is missing (the message lists those there are).
        """
