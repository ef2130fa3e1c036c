"""Stages: what a run waits for until its first answer: a cluster, a place in it, the weights, the first prefill."""

from __future__ import annotations

import time

from corm_batch.cluster.connection import cluster_address
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.placement import Placement
from corm_batch.spec import JobSpec

LOADING = "loading the model's weights"
READING = "reading the first documents (prefill)"
_ASK_S = 2.0
_LONG_S = 20.0  # a replica's process starts and imports torch in less


def before_the_cluster(spec: JobSpec) -> str:
    """The first stage."""
    address = cluster_address(spec)
    return "starting Ray on this machine" if address is None else f"joining the Ray cluster at {address}"


class Stages:
    """The stages of a run whose replicas are placed as `placement` says; made before the first of them is started.

    Args:
        placement: of the replicas.
        shared: others may hold what the cluster has; it is asked about that. A run's own has room for its replicas, and
            what is not free there is theirs.
    """

    def __init__(self, placement: Placement, *, shared: bool) -> None:
        self._placement = placement
        self._began = self._asked = time.monotonic()
        self._shared, self._lacks = shared, (placement.lacks() or "") if shared else ""
        self._over = False

    def now(self, load: PoolLoad, *, answered: bool) -> str:
        """What is waited for while the pool holds `load`; empty once something was `answered`.

        Raises:
            ClusterError: another cluster answers in place of the one that was joined.
        """
        self._over = self._over or answered
        if self._over:
            return ""
        if load.in_flight:
            return READING
        if load.ready or load.loading > load.starting:
            return LOADING
        self._ask()
        return f"waiting for room for a replica: it needs {self._lacks}" if self._lacks else "starting a replica"

    def _ask(self) -> None:
        """Hear anew what the cluster lacks. What it lacks later than at first, a replica about to start may hold."""
        now = time.monotonic()
        if not self._shared or now - self._asked < _ASK_S or not (self._lacks or now - self._began > _LONG_S):
            return
        self._asked = now
        if (lacks := self._placement.lacks()) is not None:
            self._lacks = lacks
