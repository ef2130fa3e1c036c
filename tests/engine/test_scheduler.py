"""Generated schedules: whatever arrives, is cancelled, preempted or fails, no page leaks and no text changes."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import CapacityError
from corm_batch.ops.pages import NEVER
from corm_batch.policies.base import KVPolicy

KVZIP = {
    "name": "kvzip", "chunk": 11, "pin_first": 2, "first_ids": [3, 4], "later_ids": [5], "closing_ids": [6],
    "budget": {"name": "adakv", "max_kept": 9, "floor": 0.0},
}  # fmt: skip
POLICIES = [
    {"name": "full"},
    {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5},
    {"name": "corm", "preset": "paper", "window": 6, "recent": 6, "budget": {"name": "uniform", "max_kept": 9}},
    {"name": "random", "keep_ratio": 0.4, "recent": 5},
    KVZIP,
]
KINDS = [{}, {"answer_ids": [5, 6, 7, 5], "uncompressed": True}, {"uncompressed": True}, {"answer_ids": [8] * 6}, {}]


@functools.cache
def load(folder):
    return load_model(folder, torch.float32, torch.device("cpu"))


def make_engine(folder, policy, pages=10_000, **config):
    page_bytes = 4 * (2 * 16 * 4 + 12)
    fields = {"page_size": 4, "kv_memory": pages * page_bytes, "step_token_budget": 64, "max_sequences": 6, **config}
    return Engine(load(folder), KVPolicy.from_spec(policy), EngineConfig(**fields))


def assert_books_balance(engine):
    """Pages in use and free are all pages, and every page in use is in exactly one list."""
    assert_pages_have_one_owner(engine.cache)
    held = sum(engine.cache.pages_held(slot) for slot in range(len(engine.cache.table.lengths)))
    assert engine.pool_bytes_used == held * engine.cache.pool.page_bytes


def assert_pages_have_one_owner(cache):
    """Pages in lists and free pages are all pages, each of them once."""
    table, pool = cache.table, cache.pool
    lists = [int(page) for slot in range(len(table.lengths)) for page in table.get_lists(slot)]
    free = pool._free[: pool.num_free].tolist()
    assert sorted(lists + free) == list(range(1, pool.num_pages + 1))


def events(fewest_tokens):
    """What happens to an engine: prompts of so many tokens at least, steps, cancellations."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(fewest_tokens, 70), st.integers(1, 12)),
            st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
            st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
        ),
        max_size=25,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events(fewest_tokens=0), policy=st.sampled_from(POLICIES), pages=st.integers(4, 200), data=st.data())
def test_no_page_leaks_under_any_schedule(tiny_llama, tiny_groups, events, policy, pages, data):
    config = {
        "prefill": data.draw(st.sampled_from(["exact", "streaming"])),
        "chunk_size": data.draw(st.integers(1, 40)),
        "compact_every": data.draw(st.integers(1, 9)),
        "sharing": data.draw(st.sampled_from([{}, {1: 0}])),
    }
    model = tiny_llama if config["sharing"] else data.draw(st.sampled_from([tiny_llama, tiny_groups]))
    engine = make_engine(model, policy, pages, **config)
    added, finished = 0, []
    for kind, number, new_tokens in events:
        if kind == "add":
            ids = [(added * 7 + i) % 199 for i in range(number)]
            sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
            engine.add(Request(str(added), ids, sampling, **KINDS[added % len(KINDS)]))
            added += 1
        elif kind == "step":
            for _ in range(number):
                finished += engine.step()
                assert_books_balance(engine)
        else:
            engine.cancel(str(number))
    for _ in range(3000):
        if not engine.has_work:
            break
        finished += engine.step()
    assert_books_balance(engine)
    assert engine.pool_bytes_used == 0
    assert sorted(completion.id for completion in finished) == sorted(str(i) for i in range(added))


@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values())) if len(policy) < 6 else policy["name"]
)
@pytest.mark.parametrize(("prefill", "storage"), [("exact", "model"), ("streaming", "think"), ("exact", "int4")])
def test_preemption_changes_nothing_but_time(policy, prefill, storage, tiny_llama):
    prompts = {str(i): [(i * 31 + j * j) % 199 for j in range(12 + 5 * i)] for i in range(7)}
    sampling = SamplingParams(max_new_tokens=30, ignore_eos=True)
    requests = [Request(name, ids, sampling, return_kept_positions=True) for name, ids in prompts.items()]
    fields = {"prefill": prefill, "chunk_size": 16, "storage": storage}
    roomy = {c.id: c for c in make_engine(tiny_llama, policy, **fields).run(requests)}
    engine, disturbed, steps = make_engine(tiny_llama, policy, **fields), {}, 0
    for request in requests:
        engine.add(request)
    while engine.has_work:
        disturbed |= {c.id: c for c in engine.step()}
        steps += 1
        if steps % 3 == 0 and engine.scheduler.running:
            engine.scheduler.preempt()
            assert_books_balance(engine)
    assert sum(c.memory.preemptions for c in disturbed.values()) > 10
    for name, completion in roomy.items():
        assert disturbed[name].token_ids == completion.token_ids
        assert disturbed[name].kept_positions == completion.kept_positions
        assert disturbed[name].memory.kv_bytes_peak == completion.memory.kv_bytes_peak


class Thinned(KVPolicy):
    """Every token stays in the first layer, every third one in those behind it."""

    def expiry(self, layer, position):
        return position.where(position % 3 != 0, NEVER) if layer else torch.full_like(position, NEVER)


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_layers_of_a_sequence_hold_different_numbers_of_entries_all_the_way(prefill, tiny_llama):
    def answer(preempting):
        config = EngineConfig(page_size=4, kv_memory=1 << 20, prefill=prefill, chunk_size=16, compact_every=2)
        engine, done = Engine(load(tiny_llama), Thinned(), config), {}
        for i in range(3):
            sampling = SamplingParams(max_new_tokens=8, ignore_eos=True)
            engine.add(Request(str(i), [(i * 31 + j * j) % 199 for j in range(20 + 7 * i)], sampling, True))
        while engine.has_work:
            done |= {one.id: one for one in engine.step()}
            assert_books_balance(engine)
            if preempting and engine.scheduler.running:
                engine.scheduler.preempt()
        assert engine.pool_bytes_used == 0
        return done

    steady, moved = answer(False), answer(True)
    assert sum(one.memory.preemptions for one in moved.values()) > 2
    for name, one in steady.items():
        num_tokens = 20 + 7 * int(name) + 7
        first, second = one.kept_positions
        assert [len(head) for head in first] == [num_tokens] * 2
        assert list(second) == [tuple(range(2, num_tokens, 3))] * 2
        assert (moved[name].token_ids, moved[name].kept_positions) == (one.token_ids, one.kept_positions)
        assert one.memory.kept_per_layer == (2 * num_tokens, 2 * (num_tokens // 3))


def test_a_tight_pool_preempts_and_answers_everybody(tiny_llama):
    sampling = SamplingParams(max_new_tokens=30, ignore_eos=True)
    requests = [Request(str(i), [i] * (12 + 5 * i), sampling) for i in range(7)]
    roomy = {c.id: c for c in make_engine(tiny_llama, {"name": "full"}).run(requests)}
    for expected_ratio in (None, 0.2):  # as seen so far, or by far too low
        engine = make_engine(tiny_llama, {"name": "full"}, pages=140)
        engine.scheduler.kept_ratio = expected_ratio
        tight = {c.id: c for c in engine.run(requests)}
        assert (sum(c.memory.preemptions for c in tight.values()) > 0) == (expected_ratio is not None)
        assert {name: c.token_ids for name, c in tight.items()} == {name: c.token_ids for name, c in roomy.items()}


def test_prompts_beyond_the_budget_take_a_pass_each_and_are_answered_together(tiny_llama):
    engine = make_engine(tiny_llama, {"name": "full"}, step_token_budget=16)
    sampling = SamplingParams(max_new_tokens=6, ignore_eos=True)
    for i in range(4):
        engine.add(Request(str(i), list(range(40 + i)), sampling))
    for done in range(1, 5):
        engine.step()
        assert (len(engine.scheduler.running), engine.stats.decode_steps) == (done, 0)
    while engine.has_work:
        assert all(completion.error is None for completion in engine.step())
    assert (engine.stats.most_in_flight, engine.stats.decode_steps) == (4, 5)


def test_a_document_larger_than_the_pool_fails_alone(tiny_llama):
    engine = make_engine(tiny_llama, {"name": "full"}, pages=40)
    sampling = SamplingParams(max_new_tokens=4, ignore_eos=True)
    requests = [Request("small", [1] * 10, sampling), Request("large", [2] * 60, sampling)]
    requests.append(Request("grows", [3] * 30, SamplingParams(max_new_tokens=60, ignore_eos=True)))
    answers = {completion.id: completion for completion in engine.run(requests)}
    assert answers["small"].error is None
    assert len(answers["small"].token_ids) == 4
    for name in ("large", "grows"):
        error = answers[name].error
        assert isinstance(error, CapacityError)
        assert error.bytes_needed > error.bytes_available == engine.pool_bytes
        assert str(error.bytes_needed) in str(error)
    assert engine.pool_bytes_used == 0


def test_long_prompts_whose_chunks_outgrow_the_pool_together_are_answered_one_by_one(tiny_llama):
    """What the first document kept predicts far too little for the others: nobody may starve anybody for ever."""
    sampling = SamplingParams(max_new_tokens=3, ignore_eos=True)
    engine = make_engine(
        tiny_llama, {"name": "full"}, pages=120, prefill="streaming", chunk_size=8, step_token_budget=64
    )
    engine.scheduler.kept_ratio = 0.01
    requests = [Request(str(i), [i + 1] * 90, sampling) for i in range(4)]
    for request in requests:
        engine.add(request)
    answers = [completion for _ in range(500) for completion in engine.step()]
    assert sorted(answer.id for answer in answers if answer.error is None) == ["0", "1", "2", "3"]
    assert sum(answer.memory.preemptions for answer in answers) > 0


def test_cancelled_requests_come_back_as_such(tiny_llama):
    engine = make_engine(tiny_llama, {"name": "full"})
    for name in ("queued", "runs"):
        engine.add(Request(name, [5] * 20, SamplingParams(max_new_tokens=50, ignore_eos=True)))
    engine.cancel("queued")
    engine.step()
    engine.step()
    engine.cancel("runs")
    engine.cancel("nobody")
    (completion,) = engine.step()
    assert (completion.id, completion.finish_reason) == ("runs", "cancelled")
    assert len(completion.token_ids) == 2
    assert not engine.has_work
    assert engine.pool_bytes_used == 0


def prompts_read_before_the_first_answer(engine, count, tokens=40):
    """Of `count` documents how many were read, and how many were in flight at most, until the first and at the end."""
    for number in range(count):
        ids = [(number * 7 + i) % 199 for i in range(tokens)]
        engine.add(Request(str(number), ids, SamplingParams(max_new_tokens=9, ignore_eos=True)))
    read, done = 0, []
    while not done:
        done = engine.step()
        read = engine.stats.most_in_flight
    done += [one for _ in iter(lambda: engine.has_work, False) for one in engine.step()]
    assert sorted(one.id for one in done) == sorted(map(str, range(count)))
    return read, engine.stats.most_in_flight


@pytest.mark.parametrize("config", [{"pages": 13 * 8 * 4, "max_sequences": 100}, {"max_sequences": 64}])
def test_the_first_answer_comes_from_an_eighth_of_a_pool_that_cannot_take_all(config, tiny_llama):
    # a document of 40 + 9 tokens takes 13 pages of 4 entries in each list; a pass reads one prompt
    engine = make_engine(tiny_llama, {"name": "full"}, **config)
    held = min(config["max_sequences"], engine.cache.pool.num_pages // (13 * engine.cache.num_lists))
    read, most = prompts_read_before_the_first_answer(engine, held + 10)
    assert (read, most) == (-(-held // 8), held)
    again, _ = prompts_read_before_the_first_answer(engine, held + 10)
    assert again == held  # what it cost, it cost once


def test_a_pool_that_takes_all_documents_is_filled_first(tiny_llama):
    engine = make_engine(tiny_llama, {"name": "full"}, max_sequences=100)
    assert prompts_read_before_the_first_answer(engine, 30) == (30, 30)


def test_few_sequences_are_filled_first(tiny_llama):
    assert prompts_read_before_the_first_answer(make_engine(tiny_llama, {"name": "full"}), 9) == (6, 6)
