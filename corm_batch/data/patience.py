"""Patience: which faults of a store pass by themselves, and trying again until they have.

This is the only layer that tries again: botocore and s3fs are told not to, so that a fault costs what is said here and
not the product of three layers. Knows nothing of paths or of what is called.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from aiohttp import ClientConnectionError, ClientResponseError
from botocore.exceptions import ChecksumError, ClientError, FlexibleChecksumError, IncompleteReadError
from botocore.exceptions import ConnectionError as S3ConnectionError
from huggingface_hub.errors import OfflineModeIsEnabled
from s3fs.core import S3_RETRYABLE_ERRORS

from corm_batch.harmless import harmless

T = TypeVar("T")
_log = logging.getLogger(__name__)

PATIENCE_S = 90.0  # outlasts a store that is away for a minute, and ends before a lease could be taken over (lease.py)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_TELL_AFTER_S = 2.0  # else a job that waits, and is killed while it does, would not say for what
_PASSING = (
    ConnectionError,
    S3ConnectionError,
    ClientConnectionError,
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
        return _is_overloaded(status) or answer.response["Error"].get("Code") in _PASSING_CODES
    if isinstance(error, ClientResponseError):
        return _is_overloaded(error.status)
    if isinstance(error, OfflineModeIsEnabled):  # a ConnectionError that nobody but the user can end
        return False
    return isinstance(error, _PASSING) or getattr(error, "errno", None) in _PASSING_ERRNOS


def _is_overloaded(status: int) -> bool:
    """Whether a server that answers so may answer otherwise later."""
    return status == _TOO_MANY_REQUESTS or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)


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
    started, told = time.monotonic(), False
    for pause in pauses():
        try:
            return call(*args, **kwargs)
        except Exception as error:
            passed_s = time.monotonic() - started
            if not passes(error) or passed_s + pause > PATIENCE_S:
                raise
            if not told and passed_s > _TELL_AFTER_S:
                told = True
                _log.warning(
                    "the store does not answer, tried again for %.0f s: %s", PATIENCE_S - passed_s, harmless(str(error))
                )
        time.sleep(pause)
    raise AssertionError("pauses never end")
