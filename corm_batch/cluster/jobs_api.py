"""connect: a client of a cluster's Jobs API; explained: what goes wrong with one, told so that a user can mend it.

Ray's token authentication is taken as it is set up; no token is ever part of a message.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from corm_batch.cluster.token import missing_token, quiet, refused_token, unread_token, use_token
from corm_batch.errors import ClusterError

_OVERRIDES = "RAY_API_SERVER_ADDRESS"  # what Ray takes before any address it is given
_CONNECT_S = 10.0


def connect(address: str) -> JobSubmissionClient:
    """A client of the Jobs API at `address`, a URL as `valid_address` returns it.

    Raises:
        ClusterError: nothing answers there, it is no Ray dashboard, or it refuses the token.
    """
    with explained(address):
        _reach(address)
        use_token()
        before = os.environ.get(_OVERRIDES)
        os.environ[_OVERRIDES] = address
        try:
            return JobSubmissionClient(address)
        except (RuntimeError, KeyError, ValueError) as error:
            raise ClusterError(
                f"{address}: no Ray dashboard with a Jobs API answers there, but something else does: {_brief(error)}"
            ) from error
        finally:
            if before is None:
                del os.environ[_OVERRIDES]
            else:
                os.environ[_OVERRIDES] = before


def _reach(address: str) -> None:
    """Find out soon whether anything listens there: Ray's own requests wait as long as the system lets them."""
    url = urlsplit(address)
    socket.create_connection(
        (url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), _CONNECT_S
    ).close()


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what a request to the Jobs API at `address` raises into ClusterError; Ray's own log stays quiet."""
    try:
        with quiet():
            yield
    except ClusterError:
        raise
    except AuthenticationError as error:
        raise ClusterError(f"{address}: {_refusal(str(error))}") from error
    except OSError as error:
        raise ClusterError(
            f"{address}: no Ray cluster answers there: {_brief(error)}. The address is that of the dashboard (port "
            "8265 unless --dashboard-port of `ray start` says otherwise), which needs ray[default] on the head; from "
            "other machines it is reached through `ray dashboard` or a port forward"
        ) from error
    except RuntimeError as error:
        raise ClusterError(f"{address}: the cluster could not do it: {_brief(error)}") from error


def _refusal(message: str) -> str:
    """Why a token was not accepted, and how to give the right one."""
    if message.startswith("Authentication required"):
        return missing_token()
    return refused_token() if message.startswith("Authentication failed") else unread_token()


def _brief(error: Exception) -> str:
    """The last line that says something, without the traceback of a server."""
    lines = [line for full in str(error).splitlines() if (line := full.strip(" ."))]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
