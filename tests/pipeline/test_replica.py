import os
import signal
import time
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from corm_batch.data.document import Document
from corm_batch.errors import BrokenEngineError, ModelLoadError, UnsupportedModelError
from corm_batch.pipeline.replica import Replica, cause_of, one_line
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from corm_batch.tasks.base import Task
from tests.fakes import bare_actor, scripted

pytestmark = pytest.mark.ray


@pytest.fixture
def make(rows, ray_cluster):
    used = []

    def replica(spawn=None):
        task = Task.from_spec({"name": "summarize", "max_new_tokens": 4})
        actor = ray.remote(EngineActor).options(num_cpus=1)
        used.append(Replica(spawn or (lambda: actor.remote(WorkerSettings(scripted(), task, rows, 30.0, 5.0)))))
        return used[-1]

    yield replica
    for one in used:
        one.stop()


def settle(replica, num_rows=0):
    """Wait until the replica is loaded and has `num_rows` rows."""
    rows = []
    while replica.is_loading or len(rows) < num_rows:
        ready, _ = ray.wait(replica.refs, timeout=60)
        assert ready
        rows += replica.collect(set(ready))
    return rows


def take_all(replica, rows):
    while True:
        rows += settle(replica, 1)


def test_life_of_a_replica(make):
    replica = make()
    assert replica.is_empty
    replica.start()
    assert (replica.is_empty, replica.is_loading, replica.takes_more) == (False, True, False)
    settle(replica)
    assert replica.is_idle
    assert replica.info.pool_tokens == 4096
    replica.give(Document("a", "One."), 10, alone=False)
    replica.give(Document("b", "Two."), 20, alone=False)
    replica.send()
    assert (replica.num_documents, replica.tokens, replica.takes_more) == (2, 30, True)
    assert replica.oldest <= time.monotonic()
    assert sorted(row.result["doc_id"] for row in settle(replica, 2)) == ["a", "b"]
    assert replica.is_idle

    replica.give(Document("c", "Three."), 10, alone=True)
    assert not replica.takes_more
    replica.send()
    assert [row.result["doc_id"] for row in settle(replica, 1)] == ["c"]
    assert (replica.takes_more, replica.tokens) == (True, 0)

    replica.give(Document("good", "Good."), 10, alone=False)
    replica.send()
    ray.wait(replica.refs[:-1], timeout=30)  # but for the call that brings it
    replica.give(Document("bad", "@kill"), 10, alone=False)
    replica.send()
    ray.wait(replica.refs, num_returns=len(replica.refs), timeout=30)
    with pytest.raises(RayError) as caught:
        replica.collect(set(replica.refs))
    assert "worker process has died" in one_line(caught.value)
    assert "actor_id" not in one_line(caught.value)
    assert cause_of(caught.value) == "process"
    loss = replica.lose("it died", "process")
    assert [row.result["doc_id"] for row in loss.rows] == ["good"]
    assert [(flight.document.doc_id, flight.alone) for flight in loss.flights] == [("bad", False)]
    assert replica.is_empty


def test_a_fault_of_the_engine_costs_no_row_that_was_there_before(make):
    replica = make()
    replica.start()
    settle(replica)
    texts = {f"d{number}": f"Good {number}." for number in range(40)} | {"bad": "@break"}
    for name, text in texts.items():
        replica.give(Document(name, text), 10, alone=False)
    replica.send()
    rows = []
    with pytest.raises(RayTaskError) as caught:
        take_all(replica, rows)
    assert cause_of(caught.value) == "engine"
    loss = replica.lose("it broke", "engine")
    found = [row.result["doc_id"] for row in (*rows, *loss.rows)]
    assert sorted([*found, *(flight.document.doc_id for flight in loss.flights)]) == sorted(texts)
    assert all(row.ok for row in (*rows, *loss.rows))


def test_death_of_an_idle_actor_is_noticed(make):
    replica = make(bare_actor(lambda: SimpleNamespace(pid=os.getpid())))
    replica.start()
    settle(replica)
    os.kill(replica.info.pid, signal.SIGKILL)
    with pytest.raises(RayError):
        settle(replica, 1)
    assert replica.lose("it died", "process").flights == []


def test_cause_tells_engine_process_and_node_apart():
    assert cause_of(RayTaskError("process", "its node has died", BrokenEngineError("fault"))) == "engine"
    assert cause_of(ActorDiedError()) == "process"
    assert cause_of(ActorUnavailableError("Socket closed", None)) == "node"


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (UnsupportedModelError("gpt-x: feature y"), UnsupportedModelError, "^gpt-x: feature y$"),
        (ZeroDivisionError("odd"), ModelLoadError, "ZeroDivisionError: odd"),
    ],
)
def test_reason_of_a_failed_load(make, failure, expected, message):
    def fail():
        raise failure

    replica = make(bare_actor(fail))
    replica.start()
    with pytest.raises(expected, match=message):
        settle(replica)
