"""Uri: where a file or folder lies, checked and made absolute. Knows nothing of opening it."""

from __future__ import annotations

import os
import re
from typing import Annotated

from fsspec.registry import known_implementations
from pydantic import AfterValidator

from corm_batch.errors import SpecError
from corm_batch.harmless import without_credentials

_SCHEME = re.compile(r"(s3[an]?|file|https?|ftp|gc?s|az|abfss?|hdfs):", re.IGNORECASE)  # a slash was forgotten
_BUCKET = re.compile(r"(arn:[^/@%]+|[A-Za-z0-9._-]+)(/|$)")


def resolve_uri(uri: str, *, to_read: bool = False) -> str:
    """`uri` as an absolute local path or an `s3://` URI; a relative path counts from the current directory.

    What is only `to_read` may have any scheme that fsspec knows.

    Raises:
        SpecError: another scheme, no bucket, or credentials inside the URI; the message does not repeat it.
    """
    if not uri.strip() or "\0" in uri:
        raise SpecError("expected a path or an s3:// URI")
    if without_credentials(uri) != uri:
        raise SpecError("credentials in a URI: leave them to the environment or an AWS profile")
    scheme, separator, rest = uri.partition("://")
    if not separator and _SCHEME.match(uri):
        raise SpecError("expected a local path or an s3:// URI")
    if not separator or scheme == "file":
        return os.path.abspath(os.path.expanduser(rest if separator else uri))
    if to_read and scheme != "s3" and scheme in known_implementations:
        return uri
    if scheme != "s3":
        others = ", or to read from gs://, az://, https://, hf:// or another scheme of fsspec" if to_read else ""
        raise SpecError(f"expected a local path or an s3:// URI{others}")
    if not _BUCKET.match(rest):
        raise SpecError("expected s3://bucket/path")
    return uri


def valid_uri(uri: str) -> str:
    """As `resolve_uri`, for a field: a ValueError, to which the field adds its path and what was given."""
    try:
        return resolve_uri(uri)
    except SpecError as error:
        raise ValueError(str(error)) from error


Uri = Annotated[str, AfterValidator(valid_uri)]


def _valid_to_read(uri: str) -> str:
    try:
        return resolve_uri(uri, to_read=True)
    except SpecError as error:
        raise ValueError(str(error)) from error


ReadableUri = Annotated[str, AfterValidator(_valid_to_read)]
"""Where what is only read may lie."""


def is_s3(uri: str) -> bool:
    """Whether `uri` lies on S3."""
    return uri.startswith("s3://")


def is_remote(uri: str) -> bool:
    """Whether `uri` lies somewhere else than on a disk of this machine."""
    return "://" in uri


def name_of(uri: str) -> str:
    """What a file is called, in lower case, its folders before it; on the web without what is asked of the server."""
    return (uri.partition("?")[0] if uri.startswith(("http://", "https://")) else uri).lower()
