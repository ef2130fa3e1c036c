"""ZstdFile: a zstd file unpacked as it is read, to the last byte before damage. Knows nothing of what it holds."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa

_READ_BYTES = 64 << 10


class ZstdFile(io.RawIOBase):
    """What a damaged or cut file holds before the fault is read like that of a whole one; the fault is raised then.

    pyarrow loses what it has unpacked of a read that fails. The file is therefore opened again at a fault and read up
    to it byte by byte.
    """

    def __init__(self, packed: BinaryIO) -> None:
        """Unpack `packed` from its beginning."""
        super().__init__()
        self._packed = packed
        self._plain = pa.CompressedInputStream(packed, "zstd")
        self._position = 0
        self._at_once = _READ_BYTES

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes; how many there were.

        Raises:
            OSError: the file is damaged or cut here, or cannot be read.
        """
        size = min(len(buffer), self._at_once)
        try:
            content = self._plain.read(size)
        except (OSError, pa.ArrowException):
            if size == 1:
                raise
            self._reopen()
            content = self._plain.read(1)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _reopen(self) -> None:
        """Be where we were, and go on byte by byte."""
        self._at_once = 1
        self._packed.seek(0)
        self._plain = pa.CompressedInputStream(self._packed, "zstd")
        skipped = 0
        while skipped < self._position:
            skipped += len(self._plain.read(min(_READ_BYTES, self._position - skipped)))
