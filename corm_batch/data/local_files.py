"""Files of this machine: what lies below a folder, and content that is safe on the disk before it has its name.

Links are followed, and what cannot be listed is not passed over. Knows nothing of what the files hold.
"""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from corm_batch.data.listing import is_called_like


def local_files(folder: str) -> tuple[set[str], set[str]]:
    """Names of the files below `folder` and of links to nothing, and names of the folders that cannot be listed.

    A folder that several links lead to is entered once. Nothing there is two empty sets.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    found: set[str] = set()
    unlisted: set[str] = set()
    entered = {_identity(folder)}

    def note(error: OSError) -> None:
        if error.filename != folder:
            unlisted.add(str(error.filename))
        elif not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        folders.sort()  # so that of several ways to one folder it is always the same that is taken
        kept = []
        for name in folders:
            identity = _identity(os.path.join(place, name))
            if identity is None or identity not in entered:
                entered.add(identity)
                kept.append(name)
        folders[:] = kept
        found.update(path for path in (os.path.join(place, name) for name in names) if _is_to_be_read(path))
    return found, unlisted


def local_glob(pattern: str, suffixes: Sequence[str]) -> tuple[set[str], set[str]]:
    """As `local_files`, of what matches: files, and what lies below folders that are called like files to read."""
    found: set[str] = set()
    unlisted: set[str] = set()
    for path in glob.iglob(pattern, recursive=True, include_hidden=True):
        if not os.path.isdir(path):
            found.update([path] if _is_to_be_read(path) else [])
        elif is_called_like(path, suffixes):
            files, folders = local_files(path)
            found.update(files)
            unlisted.update(folders)
    return found, unlisted


@contextmanager
def hidden_beside(path: Path) -> Iterator[Path]:
    """A place for a new file beside `path`, hidden from listings; the folder is synced when the caller has moved it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file at `path`, all of it on the disk when the caller is done with it."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def synced_temporary(path: Path, content: bytes) -> Iterator[Path]:
    """`content` on the disk, as `hidden_beside`."""
    with hidden_beside(path) as temporary:
        with synced(temporary) as file:
            file.write(content)
        yield temporary


def _is_to_be_read(path: str) -> bool:
    """Whether it is a file, or a link to nothing; no pipe, whose reader would wait for ever."""
    return os.path.isfile(path) or not os.path.exists(path)


def _identity(folder: str) -> tuple[int, int] | None:
    """What is the same for a folder whichever way leads to it; None when it cannot be known."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
