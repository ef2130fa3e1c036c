"""What a run says it waits for until its first answer; tests/pipeline/test_driver.py has it from real runs."""

import pytest
import ray

from corm_batch.pipeline import stages
from corm_batch.pipeline.actor_pool import PoolLoad
from corm_batch.pipeline.placement import Placement
from corm_batch.pipeline.stages import Stages, before_the_cluster

STARTING, LOADING = PoolLoad(waiting=1, loading=1, starting=1), PoolLoad(waiting=1, loading=1)
READING, READY = PoolLoad(in_flight=1, ready=1), PoolLoad(waiting=1, ready=1, loading=1, starting=1)


class Scarce(Placement):
    """On a cluster that has less, for as long as `lack` says."""

    lack = "1 CPU, of 2 there 0 are free"

    def lacks(self):
        return self.lack


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(stages.time, "monotonic", lambda: Clock.now)
    return Clock


def test_the_cluster_comes_first(job, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert before_the_cluster(job({"a": "text"})) == "starting Ray on this machine"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert before_the_cluster(job({"a": "text"})) == "joining the Ray cluster at head:6379"


def test_from_the_start_to_the_first_answer(clock):
    stages = Stages(Placement(1, 0, 1), shared=False)
    told = [stages.now(load, answered=False) for load in (STARTING, LOADING, READY, READING)]
    weights = "loading the model's weights"
    assert told == ["starting a replica", weights, weights, "reading the first documents (prefill)"]
    assert stages.now(READING, answered=True) == ""
    assert stages.now(STARTING, answered=False) == "", "a replica that is replaced later is told of as lost"


def test_a_cluster_that_others_hold_is_waited_for(clock):
    placement = Scarce(1, 0, 1)
    stages = Stages(placement, shared=True)
    assert (
        stages.now(STARTING, answered=False) == "waiting for room for a replica: it needs 1 CPU, of 2 there 0 are free"
    )
    object.__setattr__(placement, "lack", "")
    clock.now += 3.0
    assert stages.now(STARTING, answered=False) == "starting a replica"


def test_what_takes_long_is_looked_into_where_others_may_have_taken_it(clock):
    placement = Scarce(1, 0, 1)
    object.__setattr__(placement, "lack", "")
    own, shared = (Stages(placement, shared=shared) for shared in (False, True))
    object.__setattr__(placement, "lack", Scarce.lack)
    clock.now += 10.0
    assert {one.now(STARTING, answered=False) for one in (own, shared)} == {"starting a replica"}
    clock.now += 15.0
    assert own.now(STARTING, answered=False) == "starting a replica", "its own replica holds what is not free"
    assert shared.now(STARTING, answered=False).startswith("waiting for room for a replica: it needs 1 CPU")


@pytest.mark.ray
def test_what_a_real_cluster_lacks(ray_cluster):
    there = ray.cluster_resources()["CPU"]
    assert Placement(1, 0, 1).lacks() == ""
    assert Placement(1, 0, there + 1).lacks() == f"{there + 1:g} CPU, of {there:g} there {there:g} are free"
    assert Placement(1, 2, 1).lacks() == "2 GPU, of 0 there 0 are free"
