import os
import subprocess
import sys

import pytest
import ray

from corm_batch.errors import CormBatchError, SpecError
from corm_batch.pipeline.cluster import connected, replica_spawner
from corm_batch.pipeline.worker import WorkerSettings
from corm_batch.tasks.base import Task
from tests.fakes import scripted
from tests.pipeline.conftest import ROOT

OWN = """
import sys, ray
from corm_batch.pipeline.cluster import connected
from corm_batch.spec import JobSpec
with connected(JobSpec.load(sys.argv[1])):
    print(int(ray.cluster_resources()["CPU"]))
print(ray.is_initialized())
"""


def python(code, spec, tmp_path, **environment):
    """What a process of its own prints."""
    (tmp_path / "job.yaml").write_text(spec.to_yaml())
    command = [sys.executable, "-c", code, str(tmp_path / "job.yaml")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.ray
def test_own_cluster_has_room_for_the_replicas_and_ends(job, tmp_path):
    spec = job({"a": "text"}, cluster={"replicas": 3, "cpus_per_replica": 2})
    assert python(OWN, spec, tmp_path) == [str(max(6, os.cpu_count())), "False"]


@pytest.mark.ray
def test_running_cluster_is_used_and_left_alone(job, ray_cluster):
    with connected(job({"a": "text"})):
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize("fault", [ConnectionError("refused"), RuntimeError("timed out"), ValueError("no such thing")])
def test_no_cluster_at_the_address(job, monkeypatch, fault):
    def fail(**options):
        assert options["address"] == "10.0.0.1:6379"
        raise fault

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    spec = job({"a": "text"}, cluster={"address": "10.0.0.1:6379"})
    with pytest.raises(CormBatchError, match=r"cluster\.address: no Ray cluster answers at '10\.0\.0\.1:6379'"):
        connected(spec).__enter__()


def test_more_gpus_than_this_machine_has(job, rows, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    settings = WorkerSettings(scripted(), Task.from_spec({"name": "summarize"}), rows, 1.0)
    spec = job({"a": "text"}, cluster={"replicas": 2, "gpus_per_replica": 1})
    with pytest.raises(SpecError, match="2 replicas with 1 GPUs each do not fit in this machine, which has 1"):
        replica_spawner(spec, settings, 1)


def test_a_replica_gets_a_gpu_for_each_rank(job, rows, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 3.0})
    settings = WorkerSettings(scripted(), Task.from_spec({"name": "summarize"}), rows, 1.0)
    spec = job({"a": "text"}, engine={"tensor_parallel": 4})
    with pytest.raises(SpecError, match="1 replicas with 4 GPUs each do not fit in this machine, which has 3"):
        replica_spawner(spec, settings, 1)
