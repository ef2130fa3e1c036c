"""What a listing finds: wildcards, hidden names, suffixes. Looks at names alone, but for links of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fsspec.utils import glob_translate

from corm_batch.data.uri import is_remote, is_s3

WILD = re.compile(r"[*?\[]")


def would_list(uri: str, suffixes: Sequence[str], file: str) -> bool:
    """Whether listing `uri` for `suffixes` would find `file`, if it were there; links on the way are followed."""
    if is_s3(uri) != is_s3(file) or (is_remote(uri) and not is_s3(uri)):
        return False
    if is_s3(uri):
        path, file = (re.sub("/+", "/", name.removeprefix("s3://")) for name in (uri, file))
    else:
        path, file = uri, os.path.realpath(file)
    root, pattern = glob_parts(path)
    if not is_s3(uri):
        root = os.path.realpath(root)
    if not file.startswith(f"{root.rstrip('/')}/"):
        return False
    relative = file.removeprefix(root.rstrip("/"))
    return is_data(relative, suffixes) and (not pattern or glob_matches(f"{root}/{pattern}", file, root, suffixes))


def glob_parts(path: str) -> tuple[str, str]:
    """The folder that a path with wildcards begins with, and the rest; without wildcards all of it and nothing."""
    wild = WILD.search(path, path.find("/") + 1)
    if not wild:
        return path.rstrip("/"), ""
    root, _, stem = path[: wild.start()].rpartition("/")
    return root, stem + path[wild.start() :]


def put_below(folder: str, root: str, name: str) -> str:
    """The place below `folder` that `name` has below `root`; empty where it has none."""
    return f"{folder}/{name.removeprefix(f'{root}/')}" if name.startswith(f"{root}/") else ""


def glob_matches(path: str, name: str, root: str, suffixes: Sequence[str]) -> bool:
    """Whether a glob matches a name, or a folder above it that is called like a file to read, as Spark writes them."""
    matches = re.compile(glob_translate(path)).match
    if matches(name):
        return True
    folder = name.rpartition("/")[0]
    while len(folder) > len(root):
        if is_called_like(folder, suffixes) and matches(folder):
            return True
        folder = folder.rpartition("/")[0]
    return False


def is_data(relative: str, suffixes: Sequence[str]) -> bool:
    """Whether the path below the listed folder is a file to read: visible, no marker or lock, a known suffix."""
    *folders, name = relative.split("/")
    hidden = name.startswith(("_", "~$")) or any(part.startswith(".") for part in (*folders, name))
    hidden = hidden or any(part.startswith("_") and "=" not in part for part in folders)  # a column may begin so
    return not hidden and not relative.endswith("/") and relative.lower().endswith(tuple(suffixes))


def is_called_like(path: str, suffixes: Sequence[str]) -> bool:
    """Whether a folder's name ends like that of a file to read."""
    return any(suffix and path.lower().rstrip("/").endswith(suffix) for suffix in suffixes)
