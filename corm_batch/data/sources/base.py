"""Source: documents in. A source names its splits without reading them, then reads one split at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, Field

from corm_batch.data.document import Document
from corm_batch.data.expressions import checked_names
from corm_batch.registry import Plugin


@dataclass(frozen=True)
class Split:
    """One unit of reading: a row group of a Parquet file, a range of lines.

    Attributes:
        uri: the file.
        index: which piece of the file.
        num_rows: rows in it; -1 when unknown without reading; 0 when there are none, or none can be read.
        error: why nothing of the file can be read; `read` raises it.
        kinds: Arrow types of the columns asked for, by name, where the file tells them; one mapping for all its splits.
    """

    uri: str
    index: int
    num_rows: int = -1
    error: str | None = None
    kinds: Mapping[str, pa.DataType] = field(default_factory=dict, compare=False, repr=False)


def _checked(expression: str) -> str:
    """Refuse what is no expression over columns."""
    if not checked_names(expression):
        raise ValueError(f"{expression!r} names no column")
    return expression


class Source(Plugin, kind="source", package="corm_batch.data.sources"):
    """Where documents come from."""

    filter: Annotated[str, AfterValidator(_checked)] | None = Field(
        None,
        description='take the rows alone for which this expression over columns holds; row["a-name"] is a column '
        "whose name is not one word",
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="make one document of all rows with one value of this column: the value is its id, their texts "
        "are its text, one below the other, and each other column is the list of theirs",
    )

    @property
    def leaves_out(self) -> bool:
        """Whether some rows may be none of its documents (`Document.left_out`)."""
        return False

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

    def read_carrying(self, split: Split, columns: Sequence[str], carried: Sequence[str]) -> Iterator[Document]:
        """As `read`, with the columns that are carried over to the results apart from those the task is given.

        Raises:
            FileError, SourceError: as `read`.
        """
        for document in self.read(split, list(dict.fromkeys([*columns, *carried]))):
            found = document.columns
            own, kept = ({name: found[name] for name in names} for names in (columns, carried))
            yield replace(document, columns=own, carried=kept)


class Refinement(Source):
    """The rows of another source, taken as its `filter` or `group_by` says. It is in no registry."""

    of: Source

    @property
    def place(self) -> str:
        """That of the source."""
        return self.of.place

    @property
    def leaves_out(self) -> bool:
        """As the source."""
        return self.of.leaves_out

    def to_spec(self) -> dict[str, Any]:
        """The source's section."""
        return self.of.to_spec()

    def would_read(self, uri: str) -> bool:
        """As the source."""
        return self.of.would_read(uri)

    def read(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """Without columns that are carried over."""
        return self.read_carrying(split, columns, ())


def rows_before(splits: Iterable[Split]) -> list[int | None]:
    """For each split how many rows of its file lie in the splits before it; None where nothing tells."""
    ends: dict[str, int | None] = {}
    found = []
    for split in splits:
        before = ends.get(split.uri, 0)
        found.append(before)
        ends[split.uri] = None if before is None or split.num_rows < 0 else before + split.num_rows
    return found
