"""The Ray cluster of a job: one of its own on this machine, or a running one."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from corm_batch.errors import CormBatchError
from corm_batch.spec import JobSpec

_OBJECT_STORE_BYTES = 200 * 2**20


@contextmanager
def connected(spec: JobSpec) -> Iterator[None]:
    """Ray, initialised; shut down afterwards unless the caller had it running already.

    Raises:
        CormBatchError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = spec.cluster.address or os.environ.get("RAY_ADDRESS")
    if address:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CormBatchError(f"cluster.address: no Ray cluster answers at {address!r}: {error}") from error
    else:
        _start_local(spec)
    # Ray would print the end of every worker on standard output, where machines read; the pool tells of losses itself
    ray._private.worker._worker_logs_enabled = False
    try:
        yield
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True


def _start_local(spec: JobSpec) -> None:
    """A cluster that lives as long as this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    wanted = math.ceil(spec.cluster.min_replicas * (spec.cluster.cpus_per_replica or 1))
    ray.init(
        address="local",  # else Ray would join, with other arguments, what an earlier `ray start` left on this machine
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        num_cpus=max(os.cpu_count() or 1, wanted),
    )
