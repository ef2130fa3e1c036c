"""KubeRay RayJob and RayCronJob: right by their schemas, a cluster that fits the spec."""

import pytest
import ray
import yaml

from corm_batch.schedule.kuberay import ray_cron_job, ray_job
from corm_batch.schedule.kubernetes import PodOptions
from tests.schedule.conftest import make_schedule
from tests.schedule.manifests import problems, validated

OPTIONS = PodOptions("registry/corm-batch:1", "nightly-jobs", "8", "64Gi", "s3-access")


def test_ray_job():
    manifests = validated(ray_job(make_schedule(overrides=("cluster.address=auto",), retry_failed=True), OPTIONS))
    spec = manifests["RayJob"]["spec"]
    assert spec["entrypoint"] == "corm-batch run /etc/corm-batch/job.yaml --retry-failed"
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    (worker,) = group["template"]["spec"]["containers"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 1}
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert head["envFrom"] == worker["envFrom"] == [{"secretRef": {"name": "s3-access"}}]
    job = yaml.safe_load(manifests["ConfigMap"]["data"]["job.yaml"])
    assert job["cluster"]["address"] is None  # Ray tells the driver


@pytest.mark.parametrize(
    ("overrides", "pods", "gpus"),
    [
        (("cluster.replicas=5", "cluster.gpus_per_replica=0.5"), 3, 1),
        (("cluster.replicas=5", "cluster.gpus_per_replica=2"), 5, 2),
        (("cluster.replicas=5", "model.device=cpu"), 5, None),
    ],
)
def test_workers(overrides, pods, gpus):
    spec = validated(ray_job(make_schedule(overrides=overrides), OPTIONS))["RayJob"]["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == pods
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") == gpus


def test_range_of_replicas_is_what_kuberay_scales_between():
    schedule = make_schedule(overrides=("cluster.replicas={min: 2, max: 7}", "cluster.gpus_per_replica=0.5"))
    cluster = validated(ray_job(schedule, OPTIONS))["RayJob"]["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 4)
    assert cluster["enableInTreeAutoscaling"] is True
    fixed = validated(ray_job(make_schedule(), OPTIONS))["RayJob"]["spec"]["rayClusterSpec"]
    assert "enableInTreeAutoscaling" not in fixed


def test_ray_cron_job():
    schedule = make_schedule(cron="0 3 * * SUN", time_zone="Europe/Berlin")
    cron = validated(ray_cron_job(schedule, OPTIONS))["RayCronJob"]
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == ("0 3 * * 0", "Europe/Berlin")
    once = validated(ray_job(schedule, OPTIONS))["RayJob"]
    assert cron["spec"]["jobTemplate"] == once["spec"]
    assert cron["metadata"] == once["metadata"]


def test_the_schema_finds_mistakes():
    cron = validated(ray_cron_job(make_schedule(), OPTIONS))["RayCronJob"]
    del cron["spec"]["schedule"]
    cron["spec"]["jobTemplate"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "2"
    cron["spec"]["jobTemplate"]["rayClusterSpec"]["authOptions"]["mode"] = "none"
    assert len(problems(cron)) == 3
