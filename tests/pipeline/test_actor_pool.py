import os
import signal
from dataclasses import dataclass, field

import pytest
import ray

from corm_batch.data.document import Document
from corm_batch.errors import BrokenEngineError, ModelLoadError
from corm_batch.pipeline import actor_pool as module
from corm_batch.pipeline.actor_pool import ActorPool, PoolLimits
from corm_batch.pipeline.replica import Flight, Loss
from corm_batch.pipeline.worker import EngineActor, ReplicaInfo, WorkerSettings
from corm_batch.tasks.base import Task
from tests.fakes import bare_actor, scripted


def limits(**fields):
    return PoolLimits(
        **{"replicas": 1, "max_documents": 64, "answer_tokens": 4, "hang_s": 60.0, "backoff_s": 0.05, **fields}
    )


def documents(count, **special):
    texts = {f"d{index}": f"Innocent document {index}. " * (index + 1) for index in range(count)} | special
    return [Document(name, text) for name, text in texts.items()]


@pytest.fixture
def make(rows, ray_cluster):
    """A pool of scripted engines, and what was lost."""
    pools, losses = [], []

    def pool(load_model=None, document_timeout_s=30.0, patience_s=10.0, spawn=None, **fields):
        task = Task.from_spec({"name": "summarize", "max_new_tokens": 4})
        settings = WorkerSettings(load_model or scripted(), task, rows, document_timeout_s, patience_s)
        actor = ray.remote(EngineActor).options(num_cpus=1, max_restarts=0)
        pools.append(ActorPool(spawn or (lambda: actor.remote(settings)), rows, limits(**fields), losses.append))
        return pools[-1], losses

    yield pool
    for used in pools:
        used.close()


def finish(pool, given, after_row=lambda row: None):
    """Every row, by id."""
    for document in given:
        pool.add(document)
    found = []
    while not pool.idle:
        for row in pool.poll(0.2):
            found.append(row.result)
            after_row(row)
    assert len(found) == len({row["doc_id"] for row in found})
    return {row["doc_id"]: row for row in found}


@pytest.mark.ray
def test_every_kind_of_fault_costs_its_own_document_alone(make):
    """But for a process that dies of its document: tests/infra/deploy/live_job.py has that."""
    pool, losses = make(document_timeout_s=2.0, patience_s=1.0, hang_s=6.0, replicas=2)
    bad = {
        "breaker": "@break",
        "refused": "@error",
        "endless": "@endless",
        "hanging": "@hang",
        "frozen": "@freeze",
    }
    found = finish(pool, documents(12, **bad))
    failed = {name: row for name, row in found.items() if row["status"] == "failed"}
    assert set(failed) == set(bad)
    assert len(found) == 17
    assert "RuntimeError: scripted fault" in failed["breaker"]["error_message"]
    assert failed["refused"]["error_message"] == "scripted refusal"
    assert "time limit" in failed["endless"]["error_message"]
    assert "did not finish a step" in failed["hanging"]["error_message"]
    assert "did not answer for 6 s" in failed["frozen"]["error_message"]
    assert {failed[name]["error_type"] for name in ("breaker", "hanging", "frozen")} == {"EngineDied"}
    assert len(losses) >= 4


@pytest.mark.ray
def test_kill_9_of_an_actor_loses_nothing(make):
    pool, losses = make(scripted(step_s=0.05), replicas=2, max_documents=4)
    killed = []

    def kill_once(row):
        if not killed:
            killed.append(int(row.memory["actor"].rpartition(":")[2]))
            os.kill(killed[0], signal.SIGKILL)

    found = finish(pool, documents(24), kill_once)
    assert len(found) == 24
    assert all(row["status"] == "ok" for row in found.values())
    assert len(losses) == 1


@pytest.mark.ray
def test_model_that_cannot_load_ends_the_job_at_the_first_actor(make):
    pool, losses = make(scripted(failure=ModelLoadError("model.name: no such model")))
    with pytest.raises(ModelLoadError, match=r"^model\.name: no such model$"):
        finish(pool, documents(3))
    assert losses == []


@pytest.mark.ray
def test_actors_that_die_while_loading_are_given_up(make):
    pool, losses = make(spawn=bare_actor(lambda: os._exit(7)), max_deaths=1)
    with pytest.raises(BrokenEngineError, match="died 2 times without an answer in between"):
        finish(pool, documents(3))
    assert len(losses) == 2


@dataclass
class Recorder:
    """A replica that is ready at once and keeps what it is given."""

    spawn: object
    given: list = field(default_factory=list)
    tokens: int = 0
    num_documents: int = 0
    is_empty: bool = False
    is_starting: bool = False
    is_loading: bool = False
    takes_more: bool = True
    refs: tuple = ()
    oldest: float = float("inf")
    info: ReplicaInfo = field(default_factory=lambda: ReplicaInfo("host", 1, pool_tokens=1000))

    @property
    def is_idle(self):
        return not self.num_documents

    def give(self, document, tokens, *, alone):
        self.given.append(document.doc_id)
        self.tokens += tokens
        self.num_documents += 1

    def send(self):
        pass


@pytest.fixture
def recorded(rows, monkeypatch):
    """Which documents, by their lengths, go to which replica."""
    monkeypatch.setattr(module, "Replica", Recorder)

    def dispatch(lengths, **fields):
        pool = ActorPool(lambda: None, rows, limits(answer_tokens=0, **fields))
        for length in lengths:
            pool.add(Document(str(length), "x" * 4 * length))
        pool.poll(0.0)
        return [replica.given for replica in pool._replicas]

    return dispatch


def test_longest_first_to_the_replica_with_the_fewest_tokens(recorded):
    assert recorded([10, 50, 40, 30, 20], replicas=2) == [["50", "20", "10"], ["40", "30"]]


def test_token_budget_and_number_of_documents_bound_what_is_in_flight(recorded):
    assert recorded([100, 90, 80, 70], token_budget=150) == [["100", "90"]]
    assert recorded([3000, 2000, 1000]) == [["3000", "2000"]]
    assert recorded([100, 90, 80, 70], max_documents=3) == [["100", "90", "80"]]


def test_waits_for_the_replicas_it_starts_with_and_then_goes_on_with_any(rows, monkeypatch):
    monkeypatch.setattr(module, "Replica", Recorder)
    pool = ActorPool(lambda: None, rows, limits(replicas=3, start_with=2))
    first, second, third = pool._replicas
    second.is_loading = third.is_loading = True
    second.takes_more = third.takes_more = False
    pool.add(Document("a", "text"))
    pool.add(Document("b", "text"))
    pool.poll(0.0)
    assert first.given == []
    second.is_loading, second.takes_more = False, True
    pool.poll(0.0)
    assert (first.given, second.given) == (["a"], ["b"])
    second.is_empty, second.takes_more = True, False
    pool.add(Document("c", "text"))
    pool.poll(0.0)
    assert first.given == ["a", "c"]


def test_never_waits_for_more_replicas_than_there_are_documents(recorded):
    assert recorded([10], replicas=1, start_with=8) == [["10"]]


def bury(pool, cause, *, alone, times):
    """Rows of a document whose replica is lost `times` times."""
    flight = Flight(Document("a", "text"), 1, alone, 0.0)
    return [[row.result["error_type"] for row in pool._bury(Loss([], [flight], "gone", cause))] for _ in range(times)]


def test_document_alone_is_to_blame_for_its_engine_at_once_for_its_process_the_second_time(rows):
    assert bury(ActorPool(lambda: None, rows, limits()), "engine", alone=True, times=1) == [["EngineDied"]]
    assert bury(ActorPool(lambda: None, rows, limits()), "process", alone=True, times=2) == [[], ["EngineDied"]]
    assert bury(ActorPool(lambda: None, rows, limits()), "process", alone=False, times=9) == [[]] * 9


def test_node_that_goes_is_no_documents_fault_and_no_death(rows):
    pool = ActorPool(lambda: None, rows, limits(max_deaths=0))
    assert bury(pool, "node", alone=False, times=4) == [[]] * 4
    assert (pool.load.waiting, pool.load.suspects) == (4, 0)
    pool = ActorPool(lambda: None, rows, limits(max_deaths=0))
    assert bury(pool, "node", alone=True, times=5) == [[], [], [], [], ["EngineDied"]]  # that takes five of them along
    assert (pool.load.waiting, pool.load.suspects) == (0, 4)


def test_look_ahead_is_bounded_in_number_and_size(rows):
    pool = ActorPool(lambda: None, rows, limits(look_ahead=2, look_ahead_bytes=100))
    pool.add(Document("a", "x"))
    assert pool.wants_more
    pool.add(Document("b", "x"))
    assert not pool.wants_more
    large = ActorPool(lambda: None, rows, limits(look_ahead=2, look_ahead_bytes=100))
    large.add(Document("a", "x" * 100))
    assert not large.wants_more
