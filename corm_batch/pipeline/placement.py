"""Placement: how many replicas there are in the connected cluster, and what each of them is given there."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from corm_batch.cluster.connection import cluster_address
from corm_batch.cluster.health import cluster_resources
from corm_batch.errors import SpecError
from corm_batch.pipeline.actor_pool import PoolLimits
from corm_batch.pipeline.replica import Spawn
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from corm_batch.spec import JobSpec


@dataclass(frozen=True)
class Placement:
    """What replicas are given in the connected cluster.

    Attributes:
        replicas: at most.
        gpus, cpus: of each.
    """

    replicas: int
    gpus: float
    cpus: float

    @classmethod
    def of(cls, spec: JobSpec) -> Placement:
        """What `spec` asks for; on a cluster of this machine alone, which cannot grow, no more than it has.

        Raises:
            SpecError: it has fewer GPUs than the replicas need; or whether they need any cannot be told, because the
                nodes of a cluster that scales are still to come.
        """
        cluster, there = spec.cluster, ray.cluster_resources()  # type: ignore[no-untyped-call]
        own = cluster_address(spec) is None
        gpus_there, cpus_there, gpus = there.get("GPU", 0), int(there.get("CPU", 0)), cluster.gpus_per_replica
        if gpus is None and spec.model.device == "auto" and cluster.scales and not own and not gpus_there:
            raise SpecError(
                "model.device: auto would choose the CPU, for no node with a GPU is up yet; expected cuda, to wait for "
                "one, or cpu, because cluster.replicas is a range"
            )
        if gpus is None:
            on_gpus = spec.model.device == "cuda" or (spec.model.device == "auto" and gpus_there)
            gpus = spec.engine.tensor_parallel if on_gpus else 0
        cpus = cluster.cpus_per_replica or 1
        if not own:
            return cls(cluster.max_replicas, gpus, cpus)
        if gpus * cluster.min_replicas > gpus_there:
            raise SpecError(
                f"cluster: {cluster.min_replicas} replicas with {gpus:g} GPUs each do not fit in this machine, "
                f"which has {gpus_there:g}"
            )
        fit = int(gpus_there // gpus) if gpus else int(cpus_there // cpus)
        replicas = min(cluster.max_replicas, max(fit, cluster.min_replicas))
        if not gpus and cluster.cpus_per_replica is None:  # torch takes as many threads as Ray gives cores
            cpus = max(1, cpus_there // replicas)
        return cls(replicas, gpus, cpus)

    def lacks(self) -> str | None:
        """What the cluster lacks for one more replica now, `1 CPU, of 2 there 0 are free`; empty when it lacks nothing,
        None where nobody answers.

        By the sums over its nodes: several that have a little each may lack more.

        Raises:
            ClusterError: another cluster answers in its place.
        """
        if (resources := cluster_resources()) is None:
            return None
        there, free = resources
        return " and ".join(
            f"{needed:g} {name}, of {there.get(name, 0):g} there {free.get(name, 0):g} are free"
            for name, needed in (("CPU", self.cpus), ("GPU", self.gpus))
            if needed > free.get(name, 0)
        )


def replica_spawner(placement: Placement, settings: WorkerSettings) -> Spawn:
    """What creates one replica's actor in the connected cluster."""
    actor = ray.remote(EngineActor).options(
        num_cpus=placement.cpus,
        num_gpus=placement.gpus,
        max_restarts=0,
        max_task_retries=0,
    )
    shared = ray.put(settings)
    return lambda: actor.remote(shared)


def pool_limits(spec: JobSpec, settings: WorkerSettings, replicas: int) -> PoolLimits:
    """What a pool of so many replicas at most may hold, and how long it waits for them."""
    cluster, phases = spec.cluster, 1 if spec.verify is None else 3  # answer, verify, answer again
    return PoolLimits(
        replicas=replicas,
        start_with=cluster.min_replicas if cluster.scales else 1,
        max_documents=2 * spec.engine.max_sequences,
        answer_tokens=spec.task.max_new_tokens,
        hang_s=phases * settings.document_timeout_s + 2 * settings.patience_s,
        max_deaths=cluster.max_actor_restarts,
        token_budget=cluster.token_budget,
        look_ahead=cluster.look_ahead,
    )
