"""What the head of the joined cluster says: whether it is still there, and what its nodes have.

Ray itself ends a process whose head stays away for a minute, and lets one wait for ever whose head was started anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.exceptions import AuthenticationError, RpcError

from corm_batch.errors import ClusterError

_TIMEOUT_S = 2
T = TypeVar("T")


def cluster_answers() -> bool:
    """Ask the head of the connected cluster; an answer takes milliseconds, none two seconds.

    Raises:
        ClusterError: another cluster answers in its place: nothing of this one will ever come back.
    """
    client = _head()
    if client is None:  # it is reached through ray://, where every call tells
        return True
    return _ask(lambda: client.internal_kv_exists(b"head", b"corm_batch", timeout=_TIMEOUT_S)) is not None


def cluster_resources() -> tuple[Mapping[str, float], Mapping[str, float]] | None:
    """What the nodes of the connected cluster have, and what of it is free, by the names that Ray has for it; None
    where the head does not answer. Ray's own functions of these names end the process once the head was started anew.

    Raises:
        ClusterError: as `cluster_answers`.
    """
    client = _head()
    if client is None:
        return ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    if (reply := _ask(lambda: client.get_all_resource_usage(timeout=_TIMEOUT_S))) is None:
        return None
    there, free = Counter[str](), Counter[str]()
    for node in reply.resource_usage_data.batch:
        there.update(node.resources_total)
        free.update(node.resources_available)
    return there, free


def _head() -> Any:
    """The connection to the head; None where there is none of this process's own."""
    return getattr(ray._private.worker.global_worker, "gcs_client", None)


def _ask(question: Callable[[], T]) -> T | None:
    """The head's answer; None for none.

    Raises:
        ClusterError: as `cluster_answers`.
    """
    try:
        return question()
    except AuthenticationError as error:  # so it calls who names another cluster's id
        raise ClusterError(
            "cluster: its head was started anew, and the replicas are gone with the old one. What was finished is "
            "committed: run the job again"
        ) from error
    except RpcError:
        return None
