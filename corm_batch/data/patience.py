"""Patience: which faults of a store pass by themselves, and trying again until they have.

This is the only layer that tries again: botocore and s3fs are told not to, so that a fault costs what is said here and
not the product of three layers. Knows nothing of paths or of what is called.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from botocore.exceptions import ChecksumError, ClientError, FlexibleChecksumError, IncompleteReadError
from botocore.exceptions import ConnectionError as S3ConnectionError
from s3fs.core import S3_RETRYABLE_ERRORS

T = TypeVar("T")

PATIENCE_S = 90.0  # outlasts a store that is away for a minute, and ends before a lease could be taken over (lease.py)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_PASSING = (
    ConnectionError,
    S3ConnectionError,
    ChecksumError,
    FlexibleChecksumError,
    IncompleteReadError,
    *S3_RETRYABLE_ERRORS,
)
_PASSING_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EIO,
    errno.EPIPE,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# said with a status below 500: what was sent arrived damaged or too slowly, or another request was faster
_PASSING_CODES = {"BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "XAmzContentSHA256Mismatch"}
_TOO_MANY_REQUESTS, _SERVER_ERROR, _NOT_IMPLEMENTED = 429, 500, 501


def passes(error: BaseException) -> bool:
    """Whether trying again can help: a server error, a timeout, a dropped connection, content cut short."""
    answer: BaseException | None = error
    while answer is not None and not isinstance(answer, ClientError):  # s3fs puts errors of its own around it
        answer = answer.__cause__
    if answer is not None:
        status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        overloaded = status == _TOO_MANY_REQUESTS or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)
        return overloaded or answer.response["Error"].get("Code") in _PASSING_CODES
    return isinstance(error, _PASSING) or getattr(error, "errno", None) in _PASSING_ERRNOS


def pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt: doubled up to ten, less up to half by chance."""
    pause = _FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # so that those who failed together do not come back together
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def patiently(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """The result of `call`, which may be made several times: while its faults pass and for `PATIENCE_S` at most.

    Raises:
        Exception: what `call` raised last.
    """
    until = time.monotonic() + PATIENCE_S
    for pause in pauses():
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if not passes(error) or time.monotonic() + pause > until:
                raise
        time.sleep(pause)
    raise AssertionError("pauses never end")
