"""One code path for local paths and URIs: list and read; publish whole objects on local disks and `s3://`.

Credentials, profile, region and endpoint of S3 come from the environment and the AWS configuration files alone
(`AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_REGION`, ...), as botocore reads them. What fails and may pass is tried again
(see `patience.py`). Knows nothing of what the files hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mimetypes
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import s3fs
from aiohttp import ClientConnectionError, ClientResponseError
from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from s3fs.core import S3_RETRYABLE_ERRORS

from corm_batch.data.listing import WILD, glob_matches, glob_parts, is_data, put_below
from corm_batch.data.local_files import local_files, local_glob, synced_temporary
from corm_batch.data.object_file import ObjectFile
from corm_batch.data.patience import patiently
from corm_batch.data.schemes import fresh_filesystem, info_of, is_there, other_filesystem
from corm_batch.data.uri import is_remote, is_s3
from corm_batch.errors import DocumentError, OutputError, SourceError, SpecError

_FAULTS = (OSError, BotoCoreError, ClientConnectionError, ClientResponseError, *S3_RETRYABLE_ERRORS)
_CONNECT_S, _READ_S = 10.0, 30.0  # a connection that takes longer, or says nothing for so long, is given up
_FETCH_AT_ONCE, _FETCH_BYTES, _READ_BYTES = 16, 64 << 20, 8 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_ALREADY_THERE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of `uri` and the path in it."""
    if not is_s3(uri):
        return other_filesystem(uri) if is_remote(uri) else (LocalFileSystem(), uri)
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


def reason(error: Any) -> str:
    """The error in one line."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().split("\n", 1)[0]


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what goes wrong while reading `uri` into SourceError with the URI in its message."""
    try:
        yield
    except (SourceError, SpecError, DocumentError):
        raise
    except Exception as error:  # what stores raise that only fsspec knows has no bounds
        known = isinstance(error, (*_FAULTS, pa.ArrowException, UnicodeDecodeError))
        if not known and (is_s3(uri) or not is_remote(uri)):
            raise
        kind = "" if known else f"{type(error).__name__}: "  # what is said by others may not say what it is about
        raise SourceError(f"{uri}: cannot be read: {kind}{reason(error)}") from error


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
        raise OutputError(f"{uri}: cannot be written: {reason(error)}") from error


def list_files(uri: str, suffixes: Sequence[str] = ("",)) -> list[str]:
    """URIs of the files at `uri`, sorted: a file, a glob, or everything below a folder that ends with a suffix.

    Directory markers and whatever has a name that starts with `_` or `.` below the folder are left out; a file that is
    named itself is taken whatever its name. Links are followed. A folder below that cannot be listed, and a link to
    nothing, are in the list, so that whoever reads them says so. Nothing there is an empty list.

    Raises:
        SourceError: the place cannot be listed.
    """
    fs, path = fresh_filesystem(uri) if is_remote(uri) and not is_s3(uri) else filesystem(uri)
    with reading(uri):
        root, found, unlisted = patiently(_found, fs, path, suffixes)
    if path in found and not path.endswith("/"):
        return [uri]
    names = [name for name in found if is_data(name.removeprefix(root), suffixes)]
    names = sorted([*names, *(name for name in unlisted if is_data(name.removeprefix(root), ("",)))])
    if not is_remote(uri):
        return names
    # as it was written: what a file system knows a file by may lack the account that the URI names
    above = uri.rstrip("/") if root == path.rstrip("/") else glob_parts(uri)[0]
    return [put_below(above, root, name) or fs.unstrip_protocol(name) for name in names]


def blame(uri: str, error: Exception) -> None:
    """Tell a bad file from a store that is away: return when `error` is the fault of the file `uri` alone.

    Where it may be the store's, the store is asked for one thing more, whether it lists the file.

    Raises:
        SourceError: the store, the network or the credentials are at fault.
    """
    if not isinstance(error, _FAULTS) and (is_s3(uri) or not is_remote(uri)):
        return  # what other stores raise has no bounds
    fs, path = filesystem(uri)
    folder, _, name = path.rpartition("/")
    with reading(uri.removesuffix(name)):
        if is_s3(uri):
            patiently(fs.find, folder, prefix=name)
        elif is_remote(uri):
            patiently(is_there, fs, path)
        elif os.path.isdir(folder):  # else it went with its folder
            patiently(os.listdir, folder)


def open_file(uri: str) -> BinaryIO:
    """`uri` open for reading at any position; each read fetches just what is read, and is made again while it fails."""
    fs, path = filesystem(uri)
    if not is_remote(uri) and os.path.isdir(path):
        os.listdir(path)  # says why it could not be listed; opening it would only say that it is a folder
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
            kind, _ = mimetypes.guess_type(path)  # so that a browser shows a page instead of saving it
            patiently(fs.pipe_file, path, content, **({"ContentType": kind} if kind else {}))
            return
        with synced_temporary(Path(path), content) as temporary:
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
                with synced_temporary(Path(path), content) as temporary:
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
    files = {name: info for name, info in found.items() if is_data(f"/{name}", ("",)) and info["type"] == "file"}
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


def _found(fs: AbstractFileSystem, path: str, suffixes: Sequence[str]) -> tuple[str, set[str], set[str]]:
    """The folder in which names are judged, the names of what lies at `path`, and those of folders not to be listed.

    s3fs has its own `isfile` and `glob`, which take a fault of the store for "nothing there".
    """
    try:
        if not path.endswith("/") and info_of(fs, path)["type"] == "file":
            return path, {path}, set()
    except (FileNotFoundError, NotADirectoryError):
        pass
    root, pattern = glob_parts(path)
    whole = not pattern or fs.isdir(path)
    if isinstance(fs, LocalFileSystem):
        return (path.rstrip("/"), *local_files(path)) if whole else (root, *local_glob(path, suffixes))
    if whole:
        return path.rstrip("/"), _objects(fs, path), set()
    in_s3 = isinstance(fs, s3fs.S3FileSystem)  # others may refuse to look for a prefix
    found = _objects(fs, root, **({"prefix": re.split(WILD, pattern, maxsplit=1)[0]} if in_s3 else {}))
    return root, {name for name in found if glob_matches(path, name, root, suffixes)}, set()


def _objects(fs: AbstractFileSystem, path: str, **options: str) -> set[str]:
    """Names of the objects below `path`."""
    return {name for name, info in fs.find(path, detail=True, **options).items() if info["type"] == "file"}
