import os
import re
import socket
import subprocess
import sys

import pytest
import ray

from corm_batch.cluster import head
from corm_batch.cluster.connection import cluster_address, connected
from corm_batch.errors import ClusterError, SpecError
from tests.conftest import ROOT

OWN = """
import os, sys, ray
from corm_batch.cluster.connection import connected
from corm_batch.spec import JobSpec
with connected(JobSpec.load(sys.argv[1])):
    print(int(ray.cluster_resources()["CPU"]))
print(ray.is_initialized())
print("RAY_AUTH_TOKEN" in os.environ)
"""


def python(code, spec, tmp_path, *arguments, **environment):
    """What a process of its own prints."""
    (tmp_path / "job.yaml").write_text(spec.to_yaml())
    command = [sys.executable, "-c", code, str(tmp_path / "job.yaml"), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.ray
def test_own_cluster_has_room_for_the_replicas_and_ends(job, tmp_path):
    """Whatever $HOME is: here it is a file, below which nobody can write; and an empty RAY_ADDRESS is none."""
    home = tmp_path / "home"
    home.touch()
    spec = job({"a": "text"}, cluster={"replicas": 3, "cpus_per_replica": 2})
    environment = {"HOME": str(home), "RAY_ADDRESS": "", "RAY_AUTH_MODE": "token"}
    assert python(OWN, spec, tmp_path, **environment) == [str(max(6, os.cpu_count())), "False", "False"]


@pytest.mark.ray
def test_running_cluster_is_used_and_left_alone(job, ray_cluster):
    with connected(job({"a": "text"})):
        pass
    assert ray.is_initialized()


FAILS = """
import os, sys
from corm_batch.cluster.connection import connected
from corm_batch.errors import ClusterError
from corm_batch.spec import JobSpec
spec = JobSpec.load(sys.argv[1])
for setting, folder in zip(("RAY_TMPDIR", "TMPDIR"), sys.argv[2:]):
    os.environ |= {"TMPDIR": "/tmp", "RAY_TMPDIR": "", setting: folder}
    try:
        with connected(spec):
            print("a cluster was started")
    except ClusterError as error:
        print(error)
"""


def test_a_machine_that_is_busy_is_no_folder_s_fault(job, monkeypatch):
    def too_late(**_):
        raise Exception("The current node timed out during startup. This could happen because some of the raylet")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, fake in (("is_initialized", bool), ("init", too_late), ("shutdown", bool)):
        monkeypatch.setattr(ray, name, fake)
    said = r"^Ray has not started on this machine in its time.*Run it again"
    with pytest.raises(ClusterError, match=said), connected(job({"a": "text"})):
        raise AssertionError("a cluster was started")


@pytest.mark.ray
def test_a_folder_that_ray_cannot_use_is_named(job, tmp_path):
    (tmp_path / "file").touch()
    long, file = tmp_path / ("long" * 25), tmp_path / "file"
    lines = python(FAILS, job({"a": "text"}), tmp_path, str(long), str(file))
    expected = [
        f"RAY_TMPDIR: Ray cannot be started with its files in {long}: names of sockets in .* are too long",
        f"TMPDIR: Ray cannot be started with its files in {file}: NotADirectoryError",
    ]
    for line, start in zip(lines, expected, strict=True):
        assert re.match(rf"{start}.*Set RAY_TMPDIR to", line)


@pytest.mark.parametrize("empty", ["", " ", "local"])
def test_an_empty_address_is_none(job, monkeypatch, empty):
    monkeypatch.setenv("RAY_ADDRESS", empty)
    assert cluster_address(job({"a": "text"})) is None
    assert cluster_address(job({"a": "text"}, cluster={"address": "head:6379"})) == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert cluster_address(job({"a": "text"})) == "other:6379"


def joining(spec, monkeypatch):
    """What is said of a cluster that cannot be joined; Ray itself must not be asked."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray would wait for minutes"))
    with pytest.raises((ClusterError, SpecError)) as error:
        connected(spec).__enter__()
    assert len(str(error.value).splitlines()) == 1
    return error.value


@pytest.fixture
def closed_port(monkeypatch):
    monkeypatch.setattr(head, "_PATIENCE_S", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_at_the_address(job, monkeypatch, closed_port, scheme):
    address = f"{scheme}127.0.0.1:{closed_port}"
    said = str(joining(job({"a": "text"}, cluster={"address": address}), monkeypatch))
    assert said.startswith(f"cluster.address: no Ray cluster answers at '{address}': ")
    assert scheme or "Connection refused" in said
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = str(joining(job({"a": "text"}), monkeypatch))
    assert said.startswith(f"RAY_ADDRESS: no Ray cluster answers at '{address}': ")
    assert "Without RAY_ADDRESS a job starts a cluster of its own" in said


@pytest.mark.parametrize("address", ["head", "http://127.0.0.1:8265", "head:port", "user:secret@head:6379", "a:1,b:2"])
def test_what_is_no_address(job, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    error = joining(job({"a": "text"}), monkeypatch)
    assert isinstance(error, SpecError)
    assert str(error).startswith("RAY_ADDRESS: expected HOST:PORT of the head")
    assert ("corm-batch submit --address" in str(error)) == address.startswith("http")
    assert "secret" not in str(error)
