"""unpacked(): a file whose name says that it is compressed, as what it holds. Knows nothing of that."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from corm_batch.data.filesystem import open_file
from corm_batch.data.sources.zstd_file import ZstdFile
from corm_batch.data.uri import name_of
from corm_batch.errors import FileError

PACKED = ("", ".gz", ".zst")
_READ_BYTES = 8 << 20


@contextmanager
def unpacked(uri: str) -> Iterator[io.BufferedReader]:
    """The content of a file, from its beginning; what stands before damage in it can be read.

    Raises:
        FileError: it lacks even the header of a compressed file.
    """
    with open_file(uri) as file, io.BufferedReader(file, _READ_BYTES) as buffered:  # type: ignore[type-var]
        yield _plain(uri, cast(io.BufferedReader, buffered))


def _plain(uri: str, file: io.BufferedReader) -> io.BufferedReader:
    """The content of a file whose name says how it is compressed; what stands before damage in it can be read."""
    name = name_of(uri)
    if not name.endswith((".gz", ".zst")):
        return file
    if not file.peek(1):
        raise FileError(uri, "it has 0 bytes, and lacks even the header of a compressed file")
    if name.endswith(".gz"):
        return cast(io.BufferedReader, gzip.GzipFile(fileobj=cast(BinaryIO, file)))
    return io.BufferedReader(ZstdFile(file), _READ_BYTES)
