"""A short series through what infra/chaos/run.py is made of, on a cluster that grows and shrinks meanwhile."""

import asyncio
import random

import pytest

from corm_batch.data.document import Document
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from infra.chaos.account import account
from infra.chaos.faults import Fault, Series
from infra.chaos.run import BOUNDS, COMMANDS, committed, documents, job
from tests.conftest import rows  # noqa: F401
from tests.fakes import scripted

FAULTS = [
    Fault("commit", 0, 0.0, 4),  # before anything was ever committed
    Fault("join", 3, 0.0, 0),
    Fault("actor", 8, 0.0, 1),
    Fault("leave", 14, 0.0, 2),
    Fault("driver", 20, 0.0, 3),
]


@pytest.fixture
def undisturbed(rows):  # noqa: F811
    """The answers of a replica that nothing happens to."""

    def answers(texts, task):
        actor = EngineActor(WorkerSettings(scripted(), task, rows, 30.0))

        async def answer():
            await actor.load()
            return await asyncio.gather(*(actor.process(Document(name, text)) for name, text in texts.items()))

        return {row.result["doc_id"]: ("ok", row.result["output"], None) for row in asyncio.run(answer())}

    return answers


@pytest.mark.ray
def test_nothing_is_lost_or_twice_or_different_while_nodes_come_and_go_and_processes_are_killed(tmp_path, undisturbed):
    # none that costs every replica its life: three more of them would take as long as all the rest
    texts = {name: text.removeprefix(f"{COMMANDS[0]} ") for name, text in documents(40, random.Random(7)).items()}
    spec = job(tmp_path, texts, "out", timeout_s=120.0)
    series = Series(tmp_path, stale_s=3.0, nodes=1, clocks_s=7200.0)
    try:
        series.run(spec, FAULTS, step_s=0.05)
    finally:
        series.close()
    journal = series.journal()
    result = account(journal, committed(spec), undisturbed(texts, spec.task), set(), BOUNDS)
    assert series.problems == []
    assert result.violations == []
    assert (result.documents, result.lost, result.duplicated, result.different) == (40, 0, 0, 0)
    assert 0 < result.recomputed <= 2 * BOUNDS.in_flight + BOUNDS.part + BOUNDS.in_flight * BOUNDS.replicas + 12

    faults = [entry["kind"] for entry in journal if entry["event"] == "fault"]
    assert faults == ["commit", "actor", "node", "driver"]
    (joined,) = (entry["at"] for entry in journal if entry["event"] == "join")
    begun = [entry for entry in journal if entry["event"] == "begin"]
    assert begun[0]["at"] < joined  # the job did not wait for its second replica
    assert {one["actor"] for one in begun if one["at"] > joined} - {one["actor"] for one in begun if one["at"] < joined}
