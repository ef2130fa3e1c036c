"""Format: a kind of file that a table is written to, piece by piece. Knows nothing of where the file goes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any, BinaryIO, ClassVar

import pyarrow as pa
from pydantic import AfterValidator, Field

from corm_batch.registry import Plugin


class Format(Plugin, kind="format", package="corm_batch.data.formats"):
    """A kind of file.

    Attributes:
        suffixes: ends of the names of such files, in lower case, the usual one first.
        keeps_all: whether what is written is read back as it was: types, metadata, and that it is whole. What a job
            commits is in such a format.
        is_text: whether it is text, which is packed as a whole where the name says so (.gz, .zst).
        needs: columns that its rows have to have, where not any will do.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    keeps_all: ClassVar[bool] = False
    is_text: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def find_problem(cls, names: Iterable[str]) -> str | None:
        """Why rows of these columns cannot be written; None when they can."""
        missing = sorted(cls.needs.difference(names))
        return (
            f"format {cls.name}: the rows have no {', '.join(missing)}, as those of task chat do" if missing else None
        )

    @abstractmethod
    def write(self, pieces: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO) -> None:
        """Write the rows of all `pieces`, each of this schema, to `sink`, from its beginning to its end."""


def _known(name: str) -> str:
    """Refuse a name that no format has."""
    if name not in Format.registered():
        raise ValueError(f"expected one of {', '.join(Format.registered())}")
    return name


def _tell_names(schema: dict[str, Any]) -> None:
    schema["enum"] = list(Format.registered())


FormatName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_tell_names)]
"""The name of a format, as a field."""
