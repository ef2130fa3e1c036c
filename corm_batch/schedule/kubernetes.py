"""A schedule as a Kubernetes CronJob: one pod with all replicas, or just the driver when `cluster.address` is set."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from corm_batch.data.uri import is_remote
from corm_batch.errors import SpecError
from corm_batch.exit_codes import IN_VAIN
from corm_batch.registry import plugin_files
from corm_batch.schedule.kubernetes_cron import kubernetes_cron
from corm_batch.schedule.schedule import Schedule
from corm_batch.spec import JobSpec

Manifest = dict[str, Any]

_SPEC_FOLDER = "/etc/corm-batch"
_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_CPUS = re.compile(r"^[1-9]\d*m?$")
_MEMORY = re.compile(r"^[1-9]\d*(Mi|Gi|Ti)$")


@dataclass(frozen=True)
class PodOptions:
    """What a spec does not say about the pods of its job.

    Attributes:
        image: holds corm-batch.
        namespace: of everything rendered.
        cpus: of one pod that holds replicas, as Kubernetes writes it: `8`, `500m`.
        memory: likewise: `32Gi`.
        secret: a Secret whose keys become environment variables; None for none.
    """

    image: str
    namespace: str = "default"
    cpus: str = "4"
    memory: str = "16Gi"
    secret: str | None = None

    def check(self) -> None:
        """Refuse what Kubernetes would.

        Raises:
            SpecError: which option, what was given, what is allowed.
        """
        if not self.image or any(char.isspace() for char in self.image):
            raise SpecError(f"--image: expected an image name such as registry/corm-batch:1.0, got {self.image!r}")
        for option, value, pattern, allowed in (
            ("--namespace", self.namespace, _LABEL, "lower-case letters, digits and '-', at most 63"),
            ("--secret", self.secret, _SUBDOMAIN, "the name of a Secret: lower-case letters, digits, '-' and '.'"),
            ("--cpus", self.cpus, _CPUS, "cores such as 8 or 500m"),
            ("--memory", self.memory, _MEMORY, "bytes such as 512Mi or 32Gi"),
        ):
            if value is not None and not pattern.match(value):
                raise SpecError(f"{option}: expected {allowed}, got {value!r}")


def cron_job(schedule: Schedule, options: PodOptions) -> str:
    """A ConfigMap with the spec and a CronJob that runs it, as YAML.

    Raises:
        SpecError: the spec or an option is wrong, or cannot be meant for a pod; or the cron expression would be due at
            other times there.
    """
    options.check()
    job = job_for_pods(schedule)
    gpus = 0 if job.cluster.address else math.ceil(job.cluster.min_replicas * gpus_of_replica(job))
    needs = resources(options.cpus, options.memory, gpus)
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(schedule.name, options),
        "spec": {
            "schedule": kubernetes_cron(schedule.cron, schedule.time_zone),
            "timeZone": schedule.time_zone,
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": _job_spec(schedule, options, job, needs)},
        },
    }
    return dump(config_map(schedule, options, job), cron)


def _job_spec(schedule: Schedule, options: PodOptions, job: JobSpec, needs: Manifest) -> Manifest:
    """A job that is tried again unless that would not help."""
    no_use = {"containerName": "corm-batch", "operator": "In", "values": [int(code) for code in IN_VAIN]}
    return {
        "backoffLimit": 3,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": no_use}]},
        "template": {
            "metadata": {"labels": labels(schedule.name)},
            "spec": {
                **pod(schedule, options, "corm-batch", needs, job_command(schedule, job)),
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 90,
            },
        },
    }


def job_for_pods(schedule: Schedule) -> JobSpec:
    """The job of `schedule`, once it is known to need no disk of this machine.

    Raises:
        SpecError: the spec is wrong or names a local path, or the schedule is for a cluster that is there.
    """
    if schedule.address is not None:
        raise SpecError(f"address: expected none, for a pod runs the job itself; got {schedule.address}")
    job = schedule.job()
    places = {"source.uri": job.source.to_spec().get("uri"), "output.uri": job.output.uri}
    if not job.model.is_hub_id:
        places["model.name"] = job.model.name
    for field, uri in places.items():
        if isinstance(uri, str) and not is_remote(uri):
            raise SpecError(f"{field}: a pod has no disk of this machine; expected s3://bucket/path, got {uri}")
    return job


def gpus_of_replica(job: JobSpec) -> float:
    """GPUs each replica gets; where the spec leaves it open, one a rank unless the device is cpu."""
    if job.cluster.gpus_per_replica is not None:
        return job.cluster.gpus_per_replica
    return 0 if job.model.device == "cpu" else job.engine.tensor_parallel


def job_command(schedule: Schedule, job: JobSpec) -> list[str]:
    """The command line of the driver in a pod; changes of the spec are in the ConfigMap's already."""
    plugins = [part for file in plugin_files(job) for part in ("--plugin", f"{_SPEC_FOLDER}/{file.file_name}")]
    retry = ["--retry-failed"] if schedule.retry_failed else []
    return ["corm-batch", "run", f"{_SPEC_FOLDER}/job.yaml", *plugins, *retry]


def config_map(schedule: Schedule, options: PodOptions, job: JobSpec) -> Manifest:
    """The complete spec and the plug-in files that it uses, as a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(f"{schedule.name}-spec", options),
        "data": {"job.yaml": job.to_yaml(), **{file.file_name: file.source for file in plugin_files(job)}},
    }


def metadata(name: str, options: PodOptions) -> Manifest:
    """Name, namespace and labels of an object."""
    return {"name": name, "namespace": options.namespace, "labels": labels(name)}


def labels(name: str) -> dict[str, str]:
    """What objects of one job are found by."""
    return {"app.kubernetes.io/name": "corm-batch", "app.kubernetes.io/instance": name}


def pod(
    schedule: Schedule, options: PodOptions, container: str, needs: Manifest, command: Sequence[str] = ()
) -> Manifest:
    """A pod's spec with one container that sees the spec, the Secret and shared memory for Ray.

    Args:
        schedule: whose spec it sees.
        options: image and Secret.
        container: its name.
        needs: its resources.
        command: what it runs; KubeRay has a command of its own for its pods.
    """
    return {
        "containers": [
            {
                "name": container,
                "image": options.image,
                **({"command": list(command)} if command else {}),
                **({"envFrom": [{"secretRef": {"name": options.secret}}]} if options.secret else {}),
                "resources": needs,
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "spec", "mountPath": _SPEC_FOLDER, "readOnly": True},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "spec", "configMap": {"name": f"{schedule.name}-spec"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }


def resources(cpus: str, memory: str, gpus: int) -> Manifest:
    """Requests and limits of a container; GPUs are asked for as limits, as Kubernetes wants it."""
    limits: dict[str, Any] = {"memory": memory}
    if gpus:
        limits["nvidia.com/gpu"] = gpus
    return {"requests": {"cpu": cpus, "memory": memory}, "limits": limits}


class _Blocks(yaml.SafeDumper):
    """YAML with texts of several lines as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what comes twice twice."""
        return True


_Blocks.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def dump(*manifests: Manifest) -> str:
    """Manifests as one YAML text."""
    return yaml.dump_all(manifests, Dumper=_Blocks, sort_keys=False, allow_unicode=True, explicit_start=True)
