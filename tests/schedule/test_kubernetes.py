"""Kubernetes CronJob: right by its schema, the spec whole inside, no secret in it."""

import pytest
import yaml

from corm_batch.errors import SpecError
from corm_batch.schedule.kubernetes import PodOptions, cron_job
from corm_batch.spec import JobSpec
from tests.schedule.conftest import ROOT, make_schedule
from tests.schedule.manifests import problems, validated

OPTIONS = PodOptions("registry/corm-batch:1", "nightly-jobs", "8", "64Gi", "s3-access")


def test_cron_job(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    schedule = make_schedule(time_zone="Europe/Berlin", cron="0 3 * * MON-FRI", overrides=("policy.tau=2",))
    text = cron_job(schedule, OPTIONS)
    assert "canary" not in text
    manifests = validated(text)
    job, settings = manifests["CronJob"]["spec"], manifests["ConfigMap"]
    assert (job["schedule"], job["timeZone"], job["concurrencyPolicy"]) == (
        "0 3 * * 1,2,3,4,5",
        "Europe/Berlin",
        "Forbid",
    )
    pod = job["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["corm-batch", "run", "/etc/corm-batch/job.yaml"]
    assert container["envFrom"] == [{"secretRef": {"name": "s3-access"}}]
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 2},
    }
    assert pod["volumes"][0]["configMap"]["name"] == settings["metadata"]["name"]
    assert container["volumeMounts"][0]["mountPath"] == "/etc/corm-batch"
    assert {manifest["metadata"]["namespace"] for manifest in manifests.values()} == {"nightly-jobs"}
    assert JobSpec.from_mapping(yaml.safe_load(settings["data"]["job.yaml"])) == schedule.job()
    assert schedule.job().policy.tau == 2


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        (("model.device=cpu",), None),
        (("cluster.gpus_per_replica=0",), None),
        (("engine.tensor_parallel=2", "cluster.replicas=2"), 4),
        (("cluster.gpus_per_replica=0.5", "cluster.replicas=3"), 2),
        (("cluster.gpus_per_replica=2", "cluster.replicas=3"), 6),
        (("cluster.gpus_per_replica=2", "cluster.replicas={min: 2, max: 8}"), 4),  # a pod cannot grow
        (("cluster.address=ray-head:6379",), None),  # the replicas are there, the pod is only the driver
    ],
)
def test_gpus(overrides, gpus):
    job = validated(cron_job(make_schedule(overrides=overrides), OPTIONS))["CronJob"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus


def test_retry_failed_and_no_secret():
    job = validated(cron_job(make_schedule(retry_failed=True), PodOptions("image")))["CronJob"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] == "--retry-failed"
    assert "envFrom" not in container


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": ""}, "--image: expected an image name"),
        ({"namespace": "My_Jobs"}, "--namespace: expected lower-case letters.*got 'My_Jobs'"),
        ({"cpus": "many"}, "--cpus: expected cores such as 8 or 500m, got 'many'"),
        ({"memory": "32GB"}, "--memory: expected bytes such as 512Mi or 32Gi, got '32GB'"),
        ({"secret": "A=B"}, "--secret: expected the name of a Secret.*got 'A=B'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(SpecError, match=message):
        cron_job(make_schedule(), PodOptions(**{"image": "image"} | options))


@pytest.mark.parametrize(
    ("override", "field"),
    [("source.uri=in/", "source.uri"), ("output.uri=out/", "output.uri"), ("model.name=./model", "model.name")],
)
def test_paths_of_this_machine_are_refused(override, field):
    with pytest.raises(SpecError, match=f"{field}: a pod has no disk of this machine; .*got {ROOT}/"):
        cron_job(make_schedule(overrides=(override,)), OPTIONS)


def test_a_schedule_for_a_cluster_that_is_there_is_refused():
    with pytest.raises(SpecError, match="address: expected none, for a pod runs the job itself; got http://head:8265"):
        cron_job(make_schedule(address="http://head:8265"), OPTIONS)


def test_the_schema_finds_mistakes():
    job = validated(cron_job(make_schedule(), OPTIONS))["CronJob"]
    job["spec"]["timezone"] = job["spec"].pop("timeZone")
    job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "64 GB"
    assert len(problems(job)) == 2
