"""A schedule as a KubeRay RayJob (one run) or RayCronJob: a Ray cluster of its own, driver on its head."""

from __future__ import annotations

import math
import shlex
from importlib.metadata import version

from corm_batch.schedule.kubernetes import (
    Manifest,
    PodOptions,
    config_map,
    dump,
    gpus_of_replica,
    job_command,
    job_for_pods,
    metadata,
    pod,
    resources,
)
from corm_batch.schedule.kubernetes_cron import kubernetes_cron
from corm_batch.schedule.schedule import Schedule
from corm_batch.spec import JobSpec

_HEAD_CPUS, _HEAD_MEMORY = "2", "8Gi"
_KEEP_CLUSTER_S = 600
_OBJECT_STORE = {"object-store-memory": str(200 * 2**20)}  # bytes; fits in the pods' shared memory


def ray_job(schedule: Schedule, options: PodOptions) -> str:
    """A ConfigMap with the spec and a RayJob that runs it at once, as YAML.

    Raises:
        SpecError: the spec or an option is wrong, or cannot be meant for a pod.
    """
    options.check()
    job = _own_cluster(job_for_pods(schedule))
    ray = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(schedule.name, options),
        "spec": _ray_job_spec(schedule, options, job),
    }
    return dump(config_map(schedule, options, job), ray)


def ray_cron_job(schedule: Schedule, options: PodOptions) -> str:
    """A ConfigMap with the spec and a RayCronJob that runs it at its times (KubeRay 1.6 or newer), as YAML.

    Raises:
        SpecError: as `ray_job`; or the cron expression would be due at other times there.
    """
    options.check()
    job = _own_cluster(job_for_pods(schedule))
    ray = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": metadata(schedule.name, options),
        "spec": {
            "schedule": kubernetes_cron(schedule.cron, schedule.time_zone),
            "timeZone": schedule.time_zone,
            "jobTemplate": _ray_job_spec(schedule, options, job),
        },
    }
    return dump(config_map(schedule, options, job), ray)


def _own_cluster(job: JobSpec) -> JobSpec:
    """The job without an address: Ray tells the driver which cluster started it."""
    return job.model_copy(update={"cluster": job.cluster.model_copy(update={"address": None})})


def _ray_job_spec(schedule: Schedule, options: PodOptions, job: JobSpec) -> Manifest:
    return {
        "entrypoint": shlex.join(job_command(schedule, job)),
        # a rerun would skip failed documents and so hide that there were any
        "backoffLimit": 0,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEEP_CLUSTER_S,
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            **({"enableInTreeAutoscaling": True} if job.cluster.scales else {}),
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", **_OBJECT_STORE},  # the driver runs there, no replica does
                "template": {"spec": pod(schedule, options, "ray-head", resources(_HEAD_CPUS, _HEAD_MEMORY, 0))},
            },
            "workerGroupSpecs": [_workers(schedule, options, job)],
        },
    }


def _workers(schedule: Schedule, options: PodOptions, job: JobSpec) -> Manifest:
    """As many pods as there are replicas; fewer when several replicas share a GPU."""
    gpus = gpus_of_replica(job)
    replicas_of_pod = max(1, math.floor(1 / gpus)) if gpus else 1
    pods = math.ceil(job.cluster.min_replicas / replicas_of_pod)
    return {
        "groupName": "replicas",
        "replicas": pods,
        "minReplicas": pods,
        "maxReplicas": math.ceil(job.cluster.max_replicas / replicas_of_pod),
        "rayStartParams": _OBJECT_STORE,
        "template": {
            "spec": pod(schedule, options, "ray-worker", resources(options.cpus, options.memory, math.ceil(gpus)))
        },
    }
