"""Ranks whose heads keep different numbers of entries decide alike: two engines in two threads, each
with a policy of its own, so that nearly everything that they would decide alone differs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import LoadedModel
from corm_batch.engine.open import Engine
from corm_batch.engine.probe import _Probe
from corm_batch.engine.ranks import ALONE, Ranks
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import CapacityError, RankError
from corm_batch.policies.base import KVPolicy
from tests.engine.test_scheduler import KVZIP, assert_pages_have_one_owner, events, load

FULL, CORM = {"name": "full"}, {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5}
BOUNDED = {"name": "corm", "preset": "paper", "window": 6, "recent": 3, "budget": {"name": "uniform", "max_kept": 20}}
REPEATING = KVZIP | {"budget": {"name": "uniform", "max_kept": 9}}
PAIRS = [
    (FULL, CORM),
    (CORM, FULL),
    (CORM, {"name": "random", "keep_ratio": 0.3, "recent": 5}),
    (BOUNDED, {**BOUNDED, "tau": 9.0}),
    (REPEATING, REPEATING | {"pin_first": 6}),
]


class ThreadRanks(Ranks):
    """Two ranks as threads; what they ask of each other has to be the same question at the same time."""

    def __init__(self, rank, table, barrier):
        self.rank, self.size, self._table, self._barrier = rank, 2, table, barrier

    def _exchange(self, question, value):
        self._table[self.rank] = question, value
        self._barrier.wait()
        (mine, first), (theirs, second) = self._table
        self._barrier.wait()
        assert mine == theirs
        return first, second

    def least(self, number):
        return min(self._exchange("least", number))

    def gather(self, value):
        return list(self._exchange("gather", value))

    def lead(self, decide):
        return self._exchange("lead", decide() if self.rank == 0 else None)[0]

    def share(self, tensor):
        tensor.copy_(self._exchange(("share", tensor.shape), tensor.clone())[0])


class WholeModel(LoadedModel):
    """A rank that has every head of the model."""

    @property
    def shard(self):
        return self.shape


def run_both(folder, policies, pages, calls, **config):
    """The completions and the scheduling decisions of two ranks that make the same calls."""
    table, barrier, loaded = [None, None], threading.Barrier(2, timeout=20), vars(load(folder))

    def run(rank):
        fields = {"page_size": 4, "kv_memory": 2 * pages * 560, "step_token_budget": 64, "max_sequences": 6, **config}
        model = WholeModel(**{**loaded, "ranks": ThreadRanks(rank, table, barrier)})
        engine = Engine(model, KVPolicy.from_spec(policies[rank]), EngineConfig(**fields))
        finished, decisions = [], []
        try:
            for name, *args in [*calls, *[("step",)] * 3000]:
                if name == "step" and not engine.has_work:
                    continue
                finished += getattr(engine, name)(*args) or []
                scheduler = engine.scheduler
                queues = scheduler.waiting, scheduler.partial, scheduler.running, scheduler.swapped
                decisions.append([[sequence.request.id for sequence in queue] for queue in queues])
                assert_pages_have_one_owner(engine.cache)
        except BaseException:
            barrier.abort()
            raise
        assert engine.cache.pool.num_free == engine.cache.pool.num_pages
        return finished, decisions

    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in (0, 1)]]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events(fewest_tokens=1), policies=st.sampled_from(PAIRS), pages=st.integers(8, 300), data=st.data())
def test_unequal_ranks_decide_alike_under_any_schedule(tiny_llama, events, policies, pages, data):
    calls, added = [], 0
    for kind, number, new_tokens in events:
        if kind == "add":
            ids = [(added * 7 + i) % 199 for i in range(number)]
            calls.append(("add", Request(str(added), ids, SamplingParams(max_new_tokens=new_tokens, ignore_eos=True))))
            added += 1
        else:
            calls += [("step",)] * number if kind == "step" else [("cancel", str(number))]
    (first, decisions), (second, others) = run_both(
        tiny_llama, policies, pages, calls,
        prefill=data.draw(st.sampled_from(["exact", "streaming"])),
        chunk_size=data.draw(st.integers(1, 40)),
        compact_every=data.draw(st.integers(1, 9)),
    )  # fmt: skip
    assert decisions == others
    assert sorted(done.id for done in first) == sorted(map(str, range(added)))
    for one, other in zip(first, second, strict=True):
        assert (one.id, one.token_ids, one.finish_reason) == (other.id, other.token_ids, other.finish_reason)
        assert one.memory.kept_per_layer == other.memory.kept_per_layer


def test_a_dry_pool_in_one_rank_preempts_in_both_and_changes_no_text(tiny_llama):
    """In rank 1 prompts keep next to nothing, and what answers add comes as a surprise."""
    sampling = SamplingParams(max_new_tokens=40, ignore_eos=True)
    calls = [("add", Request(str(i), [(i + j * j) % 199 for j in range(60)], sampling)) for i in range(5)]
    policies = {**CORM, "tau": 4.0}, {**CORM, "tau": 20.0}
    roomy, tight = (
        run_both(tiny_llama, policies, pages, calls, step_token_budget=70, compact_every=60)[0][0]
        for pages in (4000, 200)
    )
    assert sum(done.memory.preemptions for done in tight) > 0
    assert {done.id: done.token_ids for done in tight} == {done.id: done.token_ids for done in roomy}


def test_a_document_too_large_for_one_rank_fails_in_both(tiny_llama):
    calls = [("add", Request(name, [3] * n, SamplingParams(max_new_tokens=2))) for name, n in (("a", 300), ("b", 20))]
    for finished, _ in run_both(tiny_llama, [CORM, FULL], 100, calls, step_token_budget=400):
        large, small = sorted(finished, key=lambda done: done.id)
        assert isinstance(large.error, CapacityError)
        assert large.error.bytes_needed > large.error.bytes_available == 2 * 100 * 560
        assert len(small.token_ids) == 2


def test_a_full_device_ends_an_engine_of_several_ranks(tiny_llama):
    """The other ranks are in the middle of the same pass."""

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("the device is full")

    fields = {**vars(load(tiny_llama)), "module": fail}
    ranks, batch = ThreadRanks(1, [None, None], threading.Barrier(2)), _Probe([torch.arange(3)])
    with pytest.raises(RankError, match=r"rank 1.*memory_fraction.*full"):
        WholeModel(**{**fields, "ranks": ranks}).forward(batch)
    with pytest.raises(torch.OutOfMemoryError):
        WholeModel(**{**fields, "ranks": ALONE}).forward(batch)
