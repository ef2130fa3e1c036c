"""file_sha256(): the hash of a large file, computed once for as long as nobody writes to it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits; remembered as long as its size and time are the same.

    Raises:
        OSError: it cannot be read.
    """
    status = Path(path).stat()
    return _sha256_of(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256_of(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
