"""Ray cluster file, KubeRay manifests, PodMonitor and compose file are of the form their readers take, and agree."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from corm_batch.spec import JobSpec
from tests.infra.deploy.conftest import DEPLOY, ROOT, load, problems

KINDS = {"RayCluster", "RayJob", "ConfigMap"}
OBJECT_STORE_BYTES = 200 * 2**20


def manifests():
    files = (DEPLOY / "kuberay").glob("ray*.yaml")
    return [one for file in sorted(files) for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def cluster_specs():
    for one in manifests():
        if one["kind"] == "RayCluster":
            yield one["spec"]
        elif one["kind"] == "RayJob":
            yield one["spec"]["rayClusterSpec"]


def pods(spec):
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_ray_cluster_file_is_what_ray_up_takes():
    config = load("ray-cluster.yaml")
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8")
    jsonschema.validate(config, json.loads(schema))
    validate_config(prepare_config(config))  # with Ray's own defaults and rules


def test_ray_cluster_scales_gpu_workers_from_none_on_spot():
    config = load("ray-cluster.yaml")
    worker = config["available_node_types"]["gpu_spot"]
    assert (worker["min_workers"], worker["resources"]["GPU"]) == (0, 1)
    assert worker["max_workers"] == config["max_workers"] > 0
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    starts = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in starts
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kuberay_manifests(manifest):
    assert manifest["kind"] in KINDS
    assert problems(manifest, "kuberay.yaml", manifest["kind"]) == []


def test_a_mistake_in_a_manifest_is_found():
    spec = {"headGroupSpec": {"template": {"spec": {"container": []}}}, "workerGroupSpecs": [{"groupName": "gpu"}]}
    wrong = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": spec}
    found = " ".join(problems(wrong, "kuberay.yaml", "RayCluster"))
    assert "'container' was unexpected" in found
    assert "'maxReplicas' is a required property" in found


@pytest.mark.parametrize("spec", list(cluster_specs()), ids=["raycluster", "rayjob"])
def test_kuberay_clusters_scale_safely(spec):
    assert spec["rayVersion"] == version("ray")
    assert spec["authOptions"]["mode"] == "token"
    assert spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert group["minReplicas"] == 0
    for start in (spec["headGroupSpec"], group):
        assert int(start["rayStartParams"]["object-store-memory"]) == OBJECT_STORE_BYTES
    for pod in pods(spec):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
    assert pods(spec)[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_ray_job_runs_a_valid_spec():
    config_map, job = (one for one in manifests() if one["metadata"]["name"] == "nightly-records")
    spec = JobSpec.from_mapping(yaml.safe_load(config_map["data"]["job.yaml"]))
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert spec.cluster.max_replicas == group["maxReplicas"]
    assert (spec.cluster.gpus_per_replica, spec.model.device) == (1, "cuda")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert f"{mount['mountPath']}/job.yaml" in job["spec"]["entrypoint"]
    assert head["volumes"] == [{"name": mount["name"], "configMap": {"name": config_map["metadata"]["name"]}}]


def test_pod_monitor_finds_the_metrics_port():
    monitor = load("kuberay/podmonitor.yaml")
    assert problems(monitor, "podmonitor.yaml") == []
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for spec in cluster_specs():
        for pod in pods(spec):
            ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
            assert ports[endpoint["port"]] == 8080


def test_compose_file():
    compose = load("compose.yaml")
    assert problems(compose, "compose.yaml") == []
    services = compose["services"]
    assert {"s3", "head", "worker"} <= set(services)
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert set(service.get("depends_on", {})) <= set(services), name
        for place in service.get("volumes", []):
            assert (DEPLOY / place.split(":")[0]).exists(), place
    assert {name for name, service in services.items() if "profiles" in service} == {"prometheus", "grafana"}
    (build,) = {json.dumps(service["build"]) for service in services.values() if "build" in service}
    assert (DEPLOY / json.loads(build)["context"] / json.loads(build)["dockerfile"]).is_file()
    targets = load("prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    for target in targets:
        name, _, port = target.partition(":")
        assert f"--metrics-export-port={port}" in services[name]["command"]
    data_source = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert data_source["url"] == "http://prometheus:9090"
    provider = load("grafana/provisioning/dashboards/corm-batch.yaml")["providers"][0]
    assert any(place.split(":")[1].startswith(provider["options"]["path"]) for place in services["grafana"]["volumes"])


def test_the_s3_server_of_the_tests_is_the_one_to_try_out():
    pinned = re.search(r"^moto==(\S+)$", (ROOT / "infra/constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert load("compose.yaml")["services"]["s3"]["image"] == f"motoserver/moto:{pinned}"


def test_images_have_versions_and_files_no_secrets():
    files = list(DEPLOY.rglob("*.y*ml"))
    assert len(files) >= 9
    released = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    for file in files:
        text = file.read_text(encoding="utf-8")
        for image in re.findall(r"^\s*(?:- )?image: (\S+)$", text, re.MULTILINE):
            name, _, tag = image.rpartition(":")
            assert name, image
            assert re.match(r"v?\d", tag), image
            assert not name.endswith("corm-batch") or tag == released
        assert not re.search(r"AKIA[0-9A-Z]{16}|PRIVATE KEY|hf_[A-Za-z0-9]{20}|auth_token: [0-9a-f]{16}", text), file
