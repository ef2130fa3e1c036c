"""FileSource: what every source made of files shares: where they lie, which can be read, what a row goes by.

One bad file never costs the documents of others: it is known by its split, whose reading says what is wrong. Knows
nothing of a file format.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from corm_batch.data.document import Document
from corm_batch.data.filesystem import blame, list_files, reason
from corm_batch.data.listing import glob_parts, would_list
from corm_batch.data.sources.base import Source, Split
from corm_batch.data.uri import ReadableUri
from corm_batch.errors import ColumnsError, FileError, SourceError, SpecError

_LOOK_AT_ONCE = 16
_NAMED_AT_MOST = 20


class FileSource(Source):
    """Documents in files of one format: one file, a folder or a glob, local or on S3."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    uri: ReadableUri = Field(
        description="a file, a folder or a glob: local (a relative path counts from the current directory), s3:// or "
        "another scheme of fsspec, such as gs://, az://, https:// and hf://"
    )

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

    def _looked_at(self, uri: str, columns: Sequence[str]) -> list[Split] | FileError:
        """The splits of one file, at least one, or what is wrong with it."""
        try:
            with _one_file(uri):
                return self.look(uri, columns) or [Split(uri, 0, 0)]
        except FileError as error:
            return error

    def made_id(self, origin: str) -> str:
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
