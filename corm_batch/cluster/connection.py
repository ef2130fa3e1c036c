"""The Ray cluster of a job: one of its own on this machine, or a running one."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import AuthenticationError

from corm_batch.cluster.head import check_head, no_cluster
from corm_batch.cluster.token import own_token, quiet, unread_token
from corm_batch.errors import ClusterError, SpecError
from corm_batch.spec import JobSpec

_OBJECT_STORE_BYTES = 200 * 2**20
_SHORT_ENOUGH = 40  # bytes of a folder's name, so that Ray's sockets in it have names of 107 at most


def cluster_address(spec: JobSpec) -> str | None:
    """Where the cluster of `spec` is; None for one of its own on this machine. `RAY_ADDRESS=` is as good as unset."""
    address = (spec.cluster.address or os.environ.get("RAY_ADDRESS") or "local").strip()
    return None if address in ("", "local") else address


@contextmanager
def connected(spec: JobSpec) -> Iterator[None]:
    """Ray, initialised; shut down afterwards unless the caller had it running already.

    Raises:
        SpecError: no address of a cluster.
        ClusterError: no cluster answers at the address, it refuses the token, or none can be started here.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address(spec)
    with ExitStack() as own:
        if address is not None:
            _join(address, "cluster.address" if spec.cluster.address else "RAY_ADDRESS")
        else:
            own.enter_context(own_token())
            _start_local(spec)
        # Ray would print the end of every worker on standard output, where machines read; the pool tells of losses
        ray._private.worker._worker_logs_enabled = False
        try:
            yield
        finally:
            ray.shutdown()
            ray._private.worker._worker_logs_enabled = True


def _join(address: str, setting: str) -> None:
    """Join the cluster at `address`, which `setting` gave."""
    try:
        if address == "auto":  # what `ray start` left on this machine
            address = canonicalize_bootstrap_address(address) or address
        check_head(address, setting)
        with quiet():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ClusterError, SpecError):
        raise
    except AuthenticationError as error:
        raise ClusterError(f"{setting}: {address}: {unread_token()}") from error
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise ClusterError(no_cluster(setting, address, str(error))) from error


def _start_local(spec: JobSpec) -> None:
    """A cluster that lives as long as this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    wanted = math.ceil(spec.cluster.min_replicas * (spec.cluster.cpus_per_replica or 1))
    setting = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    folder = os.path.abspath(os.environ[setting] if setting else "/tmp")
    try:
        with quiet():
            ray.init(
                # else Ray would join, with other arguments, what an earlier `ray start` left on this machine
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                num_cpus=max(os.cpu_count() or 1, wanted),
                _temp_dir=os.path.join(folder, "ray"),
            )
    except AuthenticationError as error:
        raise ClusterError(f"Ray cannot be started on this machine: {unread_token()}") from error
    except Exception as error:  # what goes wrong with processes, sockets and files is of no common kind
        ray.shutdown()
        too_long = len(os.fsencode(folder)) > _SHORT_ENOUGH and "AF_UNIX" in str(error)
        reason = f"names of sockets in {folder} are too long" if too_long else f"{type(error).__name__}: {error}"
        first = reason.splitlines()[0][:300]
        if "timed out" in first:
            raise ClusterError(
                f"Ray has not started on this machine in its time, as where others take all cores: {first} "
                f"Run it again; what Ray did is in {folder}/ray/session_latest/logs"
            ) from error
        raise ClusterError(
            f"{setting or 'RAY_TMPDIR'}: Ray cannot be started with its files in {folder}: {first}. Set RAY_TMPDIR to "
            f"a folder that can be written and whose name has {_SHORT_ENOUGH} bytes at most, such as /tmp"
        ) from error
