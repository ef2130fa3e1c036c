import pytest
import ray

from corm_batch.errors import SpecError
from corm_batch.pipeline.placement import Placement


@pytest.fixture
def place(job, monkeypatch):
    """The placement of a job whose device is left open, on a cluster with these resources."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def placed(resources, device="auto", engine=None, **cluster):
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
        placement = Placement.of(job({"a": "text"}, model={"device": device}, cluster=cluster, engine=engine or {}))
        return placement.replicas, placement.gpus, placement.cpus

    return placed


def test_more_gpus_than_this_machine_has(place):
    with pytest.raises(SpecError, match="2 replicas with 1 GPUs each do not fit in this machine, which has 1"):
        place({"CPU": 2.0, "GPU": 1.0}, replicas=2, gpus_per_replica=1)
    with pytest.raises(SpecError, match="2 replicas with 1 GPUs each"):
        place({"CPU": 2.0, "GPU": 1.0}, replicas={"min": 2, "max": 4})


def test_a_replica_gets_a_gpu_for_each_rank(place):
    assert place({"CPU": 2.0, "GPU": 4.0}, engine={"tensor_parallel": 4})[1] == 4
    with pytest.raises(SpecError, match="1 replicas with 4 GPUs each do not fit in this machine, which has 3"):
        place({"CPU": 2.0, "GPU": 3.0}, engine={"tensor_parallel": 4})


def test_range_of_replicas_takes_what_this_machine_has(place):
    assert place({"CPU": 8.0, "GPU": 3.0}, replicas={"max": 8}) == (3, 1, 1)
    assert place({"CPU": 8.0, "GPU": 1.0}, replicas={"max": 8}, gpus_per_replica=0.25) == (4, 0.25, 1)
    assert place({"CPU": 5.0}, replicas={"max": 2}) == (2, 0, 2)
    assert place({"CPU": 2.0}, replicas={"min": 3, "max": 8}) == (3, 0, 1)
    assert place({"CPU": 8.0}, replicas={"max": 8}, cpus_per_replica=3) == (2, 0, 3)


def test_range_of_replicas_on_a_cluster_that_grows(place):
    elsewhere = {"address": "auto", "replicas": {"min": 2, "max": 8}}
    assert place({"CPU": 4.0, "GPU": 1.0}, **elsewhere) == (8, 1, 1)
    assert place({}, device="cuda", **elsewhere) == (8, 1, 1)
    assert place({}, gpus_per_replica=2, **elsewhere) == (8, 2, 1)
    assert place({"CPU": 4.0}, device="cpu", **elsewhere) == (8, 0, 1)


def test_cpu_is_never_chosen_because_the_gpu_nodes_are_not_up_yet(place):
    with pytest.raises(SpecError, match=r"model\.device: auto would choose the CPU.*expected cuda"):
        place({"CPU": 4.0}, address="auto", replicas={"max": 8})
