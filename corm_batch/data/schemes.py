"""Schemes of URIs that fsspec knows besides those of this package; documents are read from there.

Credentials come from the environment, as the library behind each scheme reads them. Knows nothing of the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import ClientConnectionError, ClientResponseError
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from corm_batch.errors import SourceError, SpecError

_GONE = 404, 410  # as web servers say it
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


def other_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system of `uri` and the path in it.

    Raises:
        SpecError: what knows the scheme is not installed, or the URI is none of it.
        SourceError: the place does not answer, or not so.
    """
    scheme = uri.partition("://")[0]
    try:
        fs, path = url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        extra = f": pip install 'corm-batch[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else ""
        raise SpecError(f"{uri}: {scheme}:// cannot be read here: {error}{extra}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise SpecError(f"{uri}: cannot be read: {error}") from error
    except Exception as error:  # of those that connect at once; what others raise has no bounds
        raise SourceError(f"{uri}: cannot be read: {type(error).__name__}: {error}") from error
    return fs, str(path)


def fresh_filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """As `other_filesystem`, one that remembers nothing, as will those that other threads get from now on.

    Some remember how large files are, and what is not there, whatever they are told.
    """
    fs, _ = other_filesystem(uri)
    type(fs).clear_instance_cache()
    return other_filesystem(uri)


def info_of(fs: AbstractFileSystem, path: str) -> Mapping[str, Any]:
    """What a file system says of a path.

    Raises:
        FileNotFoundError: nothing is there; not, as on the web, for whatever went wrong.
    """
    try:
        found: Mapping[str, Any] = fs.info(path)
    except FileNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, ClientConnectionError | ClientResponseError) and getattr(cause, "status", 0) not in _GONE:
            raise cause from None
        raise
    return found


def is_there(fs: AbstractFileSystem, path: str) -> bool:
    """Whether something is at a path."""
    try:
        return bool(info_of(fs, path))
    except FileNotFoundError:
        return False
