import os
import subprocess
import sys

import pytest
import ray

from corm_batch.cluster.connection import connected
from corm_batch.errors import CormBatchError
from tests.conftest import ROOT

OWN = """
import sys, ray
from corm_batch.cluster.connection import connected
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
