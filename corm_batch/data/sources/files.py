"""FileSource: what every source made of files shares: where they lie, what it reads, what makes a row usable.

One bad file never costs the documents of others: it is known by its split, whose reading says what is wrong. Knows
nothing of a file format.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import Field

from corm_batch.data.cells import as_text, is_half_a_pair, text_of, usable_id
from corm_batch.data.document import Document
from corm_batch.data.filesystem import blame, list_files, reason
from corm_batch.data.listing import glob_parts, would_list
from corm_batch.data.sources.base import Source, Split
from corm_batch.data.uri import Uri
from corm_batch.errors import ColumnsError, FileError, SourceError, SpecError

_LOOK_AT_ONCE = 16
_NAMED_AT_MOST = 20
_USUAL_ID = "doc_id"


class FileSource(Source):
    """Documents in files of one format: one file, a folder or a glob, local or on S3."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    uri: Uri = Field(description="a file, a folder or a glob; a relative path counts from the current directory")
    id_column: str | None = Field(
        None,
        min_length=1,
        description="unique for every document: text, whole numbers or UUIDs; default: doc_id where there is one, else "
        "ids are made of a file's name and the row's place in it",
    )
    text_column: str = Field(
        "text",
        min_length=1,
        description="the document: text, a list of texts or a chat's messages; dots lead into objects (doc.body)",
    )
    text_separator: str = Field("\n\n", description="between the entries of a text_column that holds lists")

    @abstractmethod
    def look(self, uri: str, columns: Sequence[str]) -> list[Split]:
        """The splits of one file that hold rows.

        Raises:
            ColumnsError: it holds rows, but not of `columns`, the id and the text.
            Exception: it cannot be read.
        """

    @abstractmethod
    def documents(self, split: Split, columns: Sequence[str], carried: Sequence[str] = ()) -> Iterator[Document]:
        """The documents of one split of a file that could be looked at, as `read_carrying`.

        Raises:
            Exception: it cannot be read any further.
        """

    def splits(self, columns: Sequence[str] = ()) -> list[Split]:
        """What there is to read, by the files' names; a file without rows is a split without rows.

        Raises:
            SourceError: no files, or no rows in them, or the place cannot be read.
            SpecError: no file has `columns` beside the id and the text.
        """
        files = list_files(self.uri, self.suffixes)
        if not files:
            raise SourceError(f"source.uri: no files ({', '.join(self.suffixes)}) found at {self.uri}")
        pool = ThreadPoolExecutor(_LOOK_AT_ONCE)
        try:
            found = list(pool.map(lambda uri: self._looked_at(uri, columns), files))
        finally:
            pool.shutdown(cancel_futures=True)
        errors = [item for item in found if isinstance(item, FileError)]
        splits = [
            split
            for item in found
            for split in ([Split(item.uri, 0, 0, item.reason)] if isinstance(item, FileError) else item)
        ]
        if not any(split.num_rows for split in splits):
            if any(isinstance(error, ColumnsError) for error in errors):
                raise SpecError(_listed(f"source: no file at {self.uri} has the columns asked for", errors))
            if not errors:
                raise SourceError(f"source.uri: no documents in the {len(files)} files found at {self.uri}")
        return splits

    def would_read(self, uri: str) -> bool:
        """Whether a file at `uri` would be listed."""
        return would_list(self.uri, self.suffixes, uri)

    def read(self, split: Split, columns: Sequence[str]) -> Iterator[Document]:
        """The documents of one split."""
        return self.read_carrying(split, columns, ())

    def read_carrying(self, split: Split, columns: Sequence[str], carried: Sequence[str]) -> Iterator[Document]:
        """The documents of one split, with what is carried over as the file has it."""
        if split.error is not None:
            raise FileError(split.uri, split.error)
        if not split.num_rows:
            return
        last = ""
        with _one_file(split.uri, lambda: f" beyond row {last}" if last else ""):
            for document in self.documents(split, columns, carried):
                last = document.origin.removeprefix(f"{split.uri}#")
                yield document

    def id_in(self, found: Container[str]) -> str | None:
        """The column that holds ids where these columns are; None where ids are made."""
        return self.id_column or (_USUAL_ID if _USUAL_ID in found else None)

    def wanted(self, columns: Sequence[str], found: Container[str]) -> list[str]:
        """Every column to read where these columns are found, each once."""
        return list(dict.fromkeys([*filter(None, [self.id_in(found)]), self.text_column, *columns]))

    def _looked_at(self, uri: str, columns: Sequence[str]) -> list[Split] | FileError:
        """The splits of one file, at least one, or what is wrong with it."""
        try:
            with _one_file(uri):
                return self.look(uri, columns) or [Split(uri, 0, 0)]
        except FileError as error:
            return error

    def document(
        self, row: Mapping[str, Any], columns: Sequence[str], origin: str, carried: Sequence[str] = ()
    ) -> Document:
        """The document of one row: column name to value, or to the exception that reading it raised.

        A row without a usable id gets `origin` for one.
        """
        problems = []
        id_column = self.id_in(row)
        doc_id = self._made_id(origin) if id_column is None else usable_id(as_text(row[id_column]))
        if doc_id is None:
            problems.append(f"column {id_column!r} holds no usable id")
        text = None
        try:
            text = text_of(row[self.text_column], self.text_separator)
        except ValueError as error:
            problems.append(f"column {self.text_column!r} {error}")
        extra, kept = {name: as_text(row[name]) for name in columns}, {name: row[name] for name in carried}
        for values in (extra, kept):
            for name, value in values.items():
                if isinstance(value, UnicodeError) or (isinstance(value, str) and is_half_a_pair(value)):
                    problems.append(f"column {name!r} holds invalid UTF-8")
                    values[name] = None
                elif isinstance(value, Exception):
                    problems.append(f"column {name!r} cannot be read ({reason(value)})")
                    values[name] = None
        return Document(
            doc_id=doc_id or origin,
            text=None if problems else text,
            columns=extra,
            problem=f"{origin}: {'; '.join(dict.fromkeys(problems))}" if problems else None,
            origin=origin,
            carried=kept,
        )

    def _made_id(self, origin: str) -> str:
        """Where a row stands below the folder that is read: the same wherever that folder is moved to."""
        root = glob_parts(self.uri)[0]
        if origin.startswith(f"{root}#"):  # the file itself was named
            root = root.rpartition("/")[0]
        return origin.removeprefix(f"{root.rstrip('/')}/")


@contextmanager
def _one_file(uri: str, beyond: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn whatever goes wrong with the file `uri` into a FileError; `beyond` says from where on it cannot be read."""
    try:
        yield
    except (SourceError, SpecError):
        raise
    except Exception as error:  # what readers of damaged files raise has no bounds
        blame(uri, error)
        raise FileError(uri, f"cannot be read{beyond()}: {reason(error)}") from error


def _listed(title: str, errors: Sequence[FileError]) -> str:
    """A message with a line for each error, those about columns first, up to a number."""
    if len(errors) == 1:
        return f"source: {errors[0]}"
    lines = [str(error) for error in sorted(errors, key=lambda error: not isinstance(error, ColumnsError))]
    more = [f"... and {len(lines) - _NAMED_AT_MOST} more files"] if len(lines) > _NAMED_AT_MOST else []
    return "\n".join([f"{title}:", *lines[:_NAMED_AT_MOST], *more])
