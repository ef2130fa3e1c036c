import errno
import itertools

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)
from s3fs.errors import translate_boto_error

from corm_batch.data import patience
from corm_batch.data.patience import passes, patiently, pauses
from corm_batch.output.lease import RENEW_S, STALE_S


def refused(status, code=None):
    """What s3fs makes of an answer of the store."""
    response = {"Error": {"Code": code or str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(response, "GetObject"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((refused(status), True) for status in (500, 502, 503, 504, 429)),
        (refused(503, "SlowDown"), True),
        (refused(400, "RequestTimeout"), True),
        (refused(400, "IncompleteBody"), True),
        (refused(409, "OperationAborted"), True),
        *((refused(status), False) for status in (400, 403, 404, 405, 412, 416, 501)),
        (refused(418, "Teapot"), False),
        (refused(403, "SlowerThanYouThink"), False),
        (OSError(errno.ECONNRESET, "reset"), True),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ReadTimeoutError(endpoint_url="http://x"), True),
        (TimeoutError("slow"), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (PermissionError("no"), False),
        (NoCredentialsError(), False),
        (ProfileNotFound(profile="nightly"), False),
        (OSError("Corrupt snappy compressed data."), False),
        (FileNotFoundError("gone"), False),
        (ValueError("ours"), False),
    ],
    ids=str,
)
def test_what_passes(error, expected):
    assert passes(error) is expected


@pytest.fixture
def clock(monkeypatch):
    """Time that only sleeping moves; the pauses made."""
    slept = []

    class Clock:
        def monotonic(self):
            return 1000.0 + sum(slept)

        def sleep(self, seconds):
            slept.append(seconds)

    monkeypatch.setattr(patience, "time", Clock())
    return slept


def test_a_store_that_is_away_for_a_minute_is_outlasted(clock):
    def call():
        if sum(clock) < 60:
            raise ConnectionRefusedError
        return "back"

    assert patiently(call) == "back"
    assert 60 <= sum(clock) < 75
    assert len(clock) < 25  # a store in trouble is not hammered


def test_patience_ends_with_the_last_fault_before_a_lease_can_be_lost(clock):
    with pytest.raises(TimeoutError, match=r"attempt \d\d"):
        patiently(lambda: (_ for _ in ()).throw(TimeoutError(f"attempt {len(clock) + 1}")))
    assert 75 < sum(clock) <= patience.PATIENCE_S <= STALE_S - RENEW_S - 10


def test_what_does_not_pass_is_not_tried_again(clock):
    with pytest.raises(PermissionError):
        patiently(lambda: (_ for _ in ()).throw(PermissionError("no")))
    assert clock == []


def test_pauses_grow_and_differ():
    several = [list(itertools.islice(pauses(), 12)) for _ in range(20)]
    assert len({pause[0] for pause in several}) > 1
    for early, late in itertools.pairwise(several):
        assert 0.1 <= early[0] <= 0.2
        assert 5 <= late[-1] <= 10
