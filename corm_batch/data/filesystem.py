"""One code path for local paths and `s3://` URIs: list, read, publish whole objects.

Credentials, profile, region and endpoint of S3 come from the environment and the AWS configuration files alone
(`AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_REGION`, ...), as botocore reads them. What fails and may pass is tried again
(see `patience.py`). Knows nothing of what the files hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate
from s3fs.core import S3_RETRYABLE_ERRORS

from corm_batch.data.object_file import ObjectFile
from corm_batch.data.patience import patiently
from corm_batch.data.uri import is_s3
from corm_batch.errors import CormBatchError, OutputError, SourceError

_FAULTS = (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS)
_CONNECT_S, _READ_S = 10.0, 30.0  # a connection that takes longer, or says nothing for so long, is given up
_FETCH_AT_ONCE, _FETCH_BYTES, _READ_BYTES = 16, 64 << 20, 8 << 20
_WILD = re.compile(r"[*?\[]")
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_ALREADY_THERE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of `uri` and the path in it."""
    if not is_s3(uri):
        return LocalFileSystem(), uri
    config: dict[str, Any] = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _READ_S,
        "retries": {"mode": "standard", "total_max_attempts": 1},
    }
    if region := os.environ.get("AWS_REGION"):  # botocore itself reads AWS_DEFAULT_REGION alone
        config["region_name"] = region
    fs = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=config)
    fs.retries = 1
    return fs, uri.removeprefix("s3://")


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what goes wrong while reading `uri` into SourceError with the URI in its message."""
    try:
        yield
    except CormBatchError:
        raise
    except (*_FAULTS, pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{uri}: cannot be read: {_reason(error)}") from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Turn what goes wrong while writing `uri` into OutputError with the URI in its message."""
    try:
        yield
    except _FAULTS as error:
        if getattr(error, "errno", None) in _DISK_FULL:
            raise OutputError(
                f"{uri}: no space left to write it; everything committed before is intact: free space and run again"
            ) from error
        raise OutputError(f"{uri}: cannot be written: {_reason(error)}") from error


def list_files(uri: str, suffixes: Sequence[str] = ("",)) -> list[str]:
    """URIs of the files at `uri`, sorted: a file, a glob, or everything below a folder that ends with a suffix.

    Directory markers and whatever has a name that starts with `_` or `.` below the folder are left out; a file that is
    named itself is taken whatever its name. Nothing there is an empty list.

    Raises:
        SourceError: the place cannot be listed.
    """
    fs, path = filesystem(uri)
    with reading(uri):
        root, found = patiently(_found, fs, path)
    if path in found and not path.endswith("/"):
        return [uri]
    names = sorted(
        name for name, info in found.items() if info["type"] == "file" and _is_data(name.removeprefix(root), suffixes)
    )
    return [f"s3://{name}" if is_s3(uri) else name for name in names]


def open_file(uri: str) -> BinaryIO:
    """`uri` open for reading at any position; each read fetches just what is read, and is made again while it fails."""
    fs, path = filesystem(uri)
    return cast(BinaryIO, ObjectFile(fs, path))


def read_whole(uri: str) -> bytes:
    """Every byte of `uri`.

    Raises:
        SourceError: not there (then its cause is FileNotFoundError), or unreadable.
    """
    fs, path = filesystem(uri)
    with reading(uri):
        return cast(bytes, patiently(fs.cat_file, path))


def write_whole(uri: str, content: bytes) -> None:
    """Publish `content` at `uri` in one step: a reader sees the old object or the new one, never a part.

    S3: one put (or one completed multipart upload). Local: a temporary file, synced, then renamed over `uri`.

    Raises:
        OutputError: not written; an object that was there before is unchanged.
    """
    fs, path = filesystem(uri)
    with writing(uri):
        if is_s3(uri):
            patiently(fs.pipe_file, path, content)
            return
        with _synced_temporary(Path(path), content) as temporary:
            os.replace(temporary, path)


def create_exclusive(uri: str, content: bytes) -> bool:
    """Publish `content` at `uri` unless something is there; True when it was written, in one step as `write_whole`.

    A store whose first answer was lost says False to the writer that won: who must know reads `uri` back.

    Raises:
        OutputError: not written, for another reason than being there already.
    """
    fs, path = filesystem(uri)
    with writing(uri):
        try:
            if is_s3(uri):
                patiently(fs.pipe_file, path, content, mode="create")
            else:
                with _synced_temporary(Path(path), content) as temporary:
                    os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if isinstance(cause := error.__cause__, ClientError) and cause.response["Error"]["Code"] in _ALREADY_THERE:
                return False
            raise
    return True


def delete(uri: str) -> None:
    """Remove one file; nothing there is fine.

    Raises:
        OutputError: it cannot be removed.
    """
    fs, path = filesystem(uri)
    with writing(uri):
        try:
            patiently(fs.rm_file, path)
        except FileNotFoundError:
            return


def fetch_folder(uri: str, cache_dir: str) -> str:
    """A local copy of an S3 folder; a local folder is returned as it is.

    The copy lies in `cache_dir` under a name made of every file's path, size and ETag: one that is there is complete
    and current, whoever fetched it.

    Raises:
        SourceError: nothing there, or not readable.
        OutputError: `cache_dir` cannot be written.
    """
    if not is_s3(uri):
        return uri
    fs, path = filesystem(uri.rstrip("/"))
    with reading(uri):
        found = {
            name.removeprefix(path).lstrip("/"): info for name, info in patiently(fs.find, path, detail=True).items()
        }
    files = {name: info for name, info in found.items() if _is_data(f"/{name}", ("",)) and info["type"] == "file"}
    if not files:
        raise SourceError(f"{uri}: no files there")
    identity = json.dumps([[name, info["size"], info["ETag"]] for name, info in sorted(files.items())])
    target = Path(cache_dir, hashlib.sha256(identity.encode()).hexdigest()[:24])
    if not target.is_dir():
        _download(uri.rstrip("/"), {name: info["size"] for name, info in files.items()}, target)
    return str(target)


def _download(uri: str, sizes: Mapping[str, int], target: Path) -> None:
    """Copy the files of these names and sizes below `uri` into a folder that appears when it is complete."""
    with writing(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name in sizes:
            with writing(str(temporary / name)):
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).touch()
        pieces = [(name, start) for name, size in sizes.items() for start in range(0, size, _FETCH_BYTES)]
        with ThreadPoolExecutor(_FETCH_AT_ONCE) as pool:
            list(pool.map(lambda piece: _fetch_piece(uri, temporary, *piece), pieces))
        with writing(str(target)):
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_piece(uri: str, folder: Path, name: str, start: int) -> None:
    """Copy up to `_FETCH_BYTES` of one file, from `start` on, to their place below `folder`."""
    with reading(f"{uri}/{name}"), open_file(f"{uri}/{name}") as source, (folder / name).open("r+b") as target:
        source.seek(start)
        target.seek(start)
        while (left := start + _FETCH_BYTES - source.tell()) and (content := source.read(min(left, _READ_BYTES))):
            with writing(str(folder / name)):
                target.write(content)


@contextmanager
def _synced_temporary(path: Path, content: bytes) -> Iterator[Path]:
    """`content` on the disk beside `path`, hidden from listings; the folder is synced when the caller has moved it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _found(fs: AbstractFileSystem, path: str) -> tuple[str, dict[str, Any]]:
    """What lies at `path`, by name, and the folder in which names are judged.

    s3fs has its own `isfile` and `glob`, which take a fault of the store for "nothing there".
    """
    try:
        if not path.endswith("/") and (info := fs.info(path))["type"] == "file":
            return path, {path: info}
    except (FileNotFoundError, NotADirectoryError):
        pass
    wild = _WILD.search(path, path.find("/") + 1)
    if not wild or fs.isdir(path):
        return path.rstrip("/"), fs.find(path, detail=True)
    root, _, stem = path[: wild.start()].rpartition("/")
    if isinstance(fs, LocalFileSystem):
        return root, fs.glob(path, detail=True)
    matches = re.compile(glob_translate(path)).match
    found = fs.find(root, prefix=stem, detail=True)
    return root, {name: info for name, info in found.items() if matches(name)}


def _is_data(relative: str, suffixes: Sequence[str]) -> bool:
    """Whether the path below the listed folder is a file to read: visible, no marker, no way out, a known suffix."""
    hidden = any(part.startswith(("_", ".")) for part in relative.split("/"))
    return not hidden and not relative.endswith("/") and relative.lower().endswith(tuple(suffixes))


def _reason(error: Any) -> str:
    """The error in one line."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().split("\n", 1)[0]
