"""check_head: whether the head of a Ray cluster answers at an address, asked before Ray is: Ray waits for minutes."""

from __future__ import annotations

import re
import time

import grpc
from ray._private.grpc_utils import init_grpc_channel
from ray.exceptions import AuthenticationError

from corm_batch.cluster.token import has_token, missing_token, refused_token, unread_token, use_token
from corm_batch.errors import ClusterError, SpecError

_CLIENT = "ray://"
_ADDRESS = re.compile(rf"^({_CLIENT})?(\[[0-9a-fA-F:.]+\]|[^\s/@:\[\]]+):\d{{1,5}}$")
_GRPC_PREFIX = re.compile(r"^[A-Z_]+: (ipv[46]:\S+: )?")
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_PATIENCE_S, _ANSWER_S, _AGAIN_S = 5.0, 5.0, 0.5
_MAY_COME = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_CHANNEL = [("grpc.enable_http_proxy", 0)]  # Ray itself does not go through one


def check_head(address: str, setting: str) -> None:
    """Return once the head answers; a head that is about to start is waited for, ten seconds at most.

    A token is used from then on where the head wants one. It may be that of another cluster: a process that uses it
    refuses the calls of a head that has none, and Ray ends its actors before they start.

    Args:
        address: HOST:PORT of the GCS, or ray://HOST:PORT of the client server.
        setting: what gave the address, for messages.

    Raises:
        SpecError: no such address.
        ClusterError: nothing answers there, it is no Ray cluster, or it refuses the token.
    """
    if not _ADDRESS.match(address):
        shown = "one with credentials" if "@" in address else repr(address)
        url = "; a URL is for `corm-batch submit --address`" if address.startswith("http") else ""
        raise SpecError(
            f"{setting}: expected HOST:PORT of the head (port 6379 unless --port of `ray start` says otherwise), "
            f"ray://HOST:PORT, auto or local, got {shown}{url}"
        )
    try:
        _ask_as_wanted(address)
    except AuthenticationError as error:
        raise ClusterError(f"{setting}: {address}: {unread_token()}") from error
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            refusal = refused_token() if has_token() else missing_token()
            raise ClusterError(f"{setting}: {address}: {refusal}") from error
        raise ClusterError(no_cluster(setting, address, error.details() or str(error.code()))) from error
    except grpc.FutureTimeoutError as error:
        raise ClusterError(no_cluster(setting, address, f"no answer in {_PATIENCE_S:.0f} s")) from error


def no_cluster(setting: str, address: str, reason: str) -> str:
    """The message that nobody is there; of `reason` what says why."""
    lines = [_GRPC_PREFIX.sub("", line) for line in reason.rpartition("last error: ")[2].splitlines() if line.strip()]
    own = " Without RAY_ADDRESS a job starts a cluster of its own." if setting == "RAY_ADDRESS" else ""
    return (
        f"{setting}: no Ray cluster answers at {address!r}: {(lines or ['no answer'])[0].strip(' .')[:300]}. The "
        f"address is that of the cluster's head, whose port is 6379 unless --port of `ray start` says otherwise.{own}"
    )


def _ask_as_wanted(address: str) -> None:
    """`_ask`, without a token first unless `RAY_AUTH_MODE` says otherwise; a client server, which calls nobody, with.

    Raises:
        grpc.RpcError, grpc.FutureTimeoutError, AuthenticationError: as `_ask`.
    """
    if address.startswith(_CLIENT):
        use_token()
    try:
        _ask(address)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAUTHENTICATED or not use_token():
            raise
        _ask(address)


def _ask(address: str) -> None:
    """Have the head say that it is alive.

    Raises:
        grpc.RpcError: it does not, or not in time.
        grpc.FutureTimeoutError: a client server does not.
        AuthenticationError: there is no token, and there should be.
    """
    deadline = time.monotonic() + _PATIENCE_S
    with init_grpc_channel(address.removeprefix(_CLIENT), _CHANNEL) as channel:
        if address.startswith(_CLIENT):
            grpc.channel_ready_future(channel).result(_PATIENCE_S)
            return
        ask = channel.unary_unary(_ALIVE)
        while True:
            try:
                ask(b"", timeout=_ANSWER_S)
                return
            except grpc.RpcError as error:
                if error.code() not in _MAY_COME or time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_S)
