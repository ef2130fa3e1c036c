"""ObjectFile: an object of a store open for reading at any position. A read that fails is made again, alone.

Knows nothing of what is read.
"""

from __future__ import annotations

import io
from typing import Any

from fsspec import AbstractFileSystem

from corm_batch.data.patience import patiently


class ObjectFile(io.RawIOBase):
    """Each read fetches just what is read. An object that is replaced while it is read is an error, not a mixture."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        """Open `path` of an fsspec file system.

        Raises:
            OSError: not there, or not readable, as from the file system.
        """
        super().__init__()
        self._file = patiently(fs.open, path, "rb", cache_type="none")

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as every file does; nothing is fetched."""
        return int(self._file.seek(offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, all that are left when negative; fewer only at the end."""
        return patiently(self._read, -1 if size is None else size)

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes; how many there were."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        """As `read`, once."""
        try:
            content: bytes = self._file.read(size)
        except IndexError as error:  # s3fs looks for a code in a timeout that carries none
            raise TimeoutError("the store went silent in the middle of a read") from error
        return content

    def close(self) -> None:
        """Let go of the object."""
        if not self.closed:
            self._file.close()
        super().close()
