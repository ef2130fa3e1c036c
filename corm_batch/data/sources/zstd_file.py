"""ZstdFile: a zstd file unpacked as it is read, to the last byte before damage. Knows nothing of what it holds."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import zstandard

_READ_BYTES = 64 << 10
_LONGEST_WINDOW = 1 << 31
"""Bytes: of `zstd --long=31`, beyond which there is none; a file takes no more of it than it unpacks to."""


class ZstdFile(io.RawIOBase):
    """What a damaged or cut file holds before the fault is read like that of a whole one; the fault is raised then.

    What was unpacked of a piece with a fault in it is lost. The file is therefore unpacked again up to that piece, and
    on from there byte by byte.
    """

    def __init__(self, packed: BinaryIO) -> None:
        """Unpack `packed` from its beginning."""
        super().__init__()
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None  # that has begun and not ended
        self._ready = memoryview(b"")
        self._taken = 0  # bytes of `packed`
        self._at_once = _READ_BYTES

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes; how many there were.

        Raises:
            OSError: the file is damaged or cut here, or cannot be read.
        """
        while not self._ready:
            piece = self._packed.read(self._at_once)
            if not piece:
                if self._frame is not None:
                    raise OSError("zstd: the file ends before what is packed in it does")
                return 0
            try:
                self._ready = memoryview(self._unpack(piece))
            except zstandard.ZstdError as error:
                if len(piece) == 1:
                    raise OSError(f"zstd: {error}") from error
                self._begin_again()
            else:
                self._taken += len(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _unpack(self, piece: bytes) -> bytes:
        """What comes of the next bytes, in which frames may end and begin."""
        found = []
        while piece:
            frame = self._frame or self._decompressor.decompressobj()
            found.append(frame.decompress(piece))
            self._frame, piece = (None, frame.unused_data) if frame.eof else (frame, b"")
        return b"".join(found)

    def _begin_again(self) -> None:
        """Be where we were, and go on byte by byte."""
        self._at_once, self._frame = 1, None
        self._packed.seek(0)
        for start in range(0, self._taken, _READ_BYTES):
            self._unpack(self._packed.read(min(_READ_BYTES, self._taken - start)))
