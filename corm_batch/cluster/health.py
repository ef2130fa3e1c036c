"""cluster_answers: whether the cluster that was joined still has its head.

Ray itself ends a process whose head stays away for a minute, and lets one wait for ever whose head was started anew.
"""

from __future__ import annotations

import ray
from ray.exceptions import AuthenticationError, RpcError

from corm_batch.errors import ClusterError

_TIMEOUT_S = 2


def cluster_answers() -> bool:
    """Ask the head of the connected cluster; an answer takes milliseconds, none two seconds.

    Raises:
        ClusterError: another cluster answers in its place: nothing of this one will ever come back.
    """
    client = getattr(ray._private.worker.global_worker, "gcs_client", None)
    if client is None:  # it is reached through ray://, where every call tells
        return True
    try:
        client.internal_kv_exists(b"head", b"corm_batch", timeout=_TIMEOUT_S)
    except AuthenticationError as error:  # so it calls who names another cluster's id
        raise ClusterError(
            "cluster: its head was started anew, and the replicas are gone with the old one. What was finished is "
            "committed: run the job again"
        ) from error
    except RpcError:
        return False
    return True
