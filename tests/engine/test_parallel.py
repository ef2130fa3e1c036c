"""An engine over two processes: what one alone answers and keeps, and no process left behind whatever goes wrong.

On GPUs where there are two, else over gloo on the CPU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from corm_batch.engine import parallel
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.parallel import Leader, ParallelEngine
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import RankError, SpecError, UnsupportedModelError
from corm_batch.grammar.grammar import Grammar
from corm_batch.policies.base import KVPolicy
from tests.conftest import llama_config, save_random_model
from tests.engine.parallel_faults import load_faulty
from tests.engine.test_cuda import assert_same_kept_but_for_rounding
from tests.engine.test_fp8_loading import store
from tests.engine.test_scheduler import KVZIP
from tests.grammar.tokenizers_of import byte_level

ROOT = Path(__file__).parents[2]
STREAMING = {"prefill": "streaming", "chunk_size": 16, "compact_every": 3}
HEADS = {"name": "headkv", "max_kept": 12, "scores": [[0.9, 0.1], [0.2, 0.4]]}
ADAKV = {"name": "adakv", "max_kept": 12}
CORM = {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5}
LEAVING = {"propagation": {"name": "attention", "share": 0.4, "pooling": 3, "window": 6, "first": 2, "recent": 5}}
needs_ranks = pytest.mark.skipif(torch.cuda.device_count() == 1, reason="two ranks, one GPU")
SHARED = []


@pytest.fixture(scope="module", autouse=True)
def _end_ranks():
    yield
    while SHARED:
        SHARED.pop().close()


@pytest.fixture
def leader():
    """Two ranks, started anew after a test that ended them: starting takes seconds, loading a tiny model none."""
    pytest.importorskip("accelerate")
    if not SHARED or SHARED[-1]._closed:
        SHARED.append(Leader(2))
    return SHARED[-1]


def settings(pages=4000, **fields):
    return EngineConfig(page_size=4, kv_memory=pages * 560, step_token_budget=64, max_sequences=6, **fields)


def make_two(leader, folder, policy, load=load_model, **fields):
    load = partial(load, folder, torch.float32) if load is load_model else partial(load, folder)
    return ParallelEngine(leader, load, KVPolicy.from_spec(policy), settings(tensor_parallel=2, **fields))


def make_one(leader, folder, policy, **fields):
    model = load_model(folder, torch.float32, leader.device)
    return Engine(model, KVPolicy.from_spec(policy), settings(**fields))


def make_requests(count, new_tokens=25, **fields):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    prompts = [[(i * 31 + j * j) % 199 for j in range(12 + 13 * i)] for i in range(count)]
    return [Request(str(i), ids, sampling, return_kept_positions=True, **fields) for i, ids in enumerate(prompts)]


def answers(engine, requests):
    return {done.id: done for done in engine.run(requests)}


@needs_ranks
@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ({"name": "full"}, {}),
        (CORM, {}),
        ({**CORM, "budget": {"name": "uniform", "max_kept": 20}}, STREAMING),
        ({"name": "h2o", "recent": 4, "budget": ADAKV}, {"compact_every": 3}),
        ({"name": "h2o", "recent": 4, "pin_instruction": True, "budget": ADAKV}, STREAMING),
        ({"name": "tova", "budget": {"name": "uniform", "max_kept": 12}}, STREAMING),
        ({"name": "keydiff", "recent": 4, "pin_instruction": True, "budget": HEADS}, {"compact_every": 3}),
        (KVZIP, STREAMING),
        ({"name": "h2o", "recent": 4, "pin_instruction": True, "budget": ADAKV}, LEAVING),
        (CORM, STREAMING | LEAVING),
        ({"name": "h2o", "recent": 4, "budget": ADAKV}, STREAMING | {"sharing": {1: 0}}),
    ],
    ids=[
        "full",
        "corm",
        "streaming",
        "adakv",
        "adakv streaming",
        "tova",
        "headkv",
        "kvzip",
        "leaving",
        "leaving streaming",
        "shared layers",
    ],
)
def test_two_ranks_answer_and_keep_what_one_does(policy, fields, leader, tiny_llama):
    pinned = (range(4), range(9, 12))
    requests = make_requests(5, stop=lambda output: len(output) == 21, instruction=pinned)
    draws = SamplingParams(max_new_tokens=9, temperature=0.8, top_p=0.9, ignore_eos=True)
    requests.append(Request("drawn", [4] * 30, draws, return_kept_positions=True, instruction=()))
    one = answers(make_one(leader, tiny_llama, policy, **fields), requests)
    engine = make_two(leader, tiny_llama, policy, **fields)
    two = answers(engine, requests)
    assert 0 <= 4000 * 560 - engine.pool_bytes < 2 * engine.cache.pool.page_bytes
    assert engine.pool_bytes_used == 0
    assert engine.shape.num_kv_heads == 2
    for name, ours in two.items():
        alone = one[name]
        assert (ours.token_ids, ours.finish_reason) == (alone.token_ids, alone.finish_reason)
        assert ours.kept_positions == alone.kept_positions
        if "pin_instruction" in policy and name != "drawn":
            assert all({0, 1, 2, 3, 9, 10, 11} <= {*head} for layer in ours.kept_positions for head in layer)
        assert ours.mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-4)
        for figure in ("full", "after_prefill", "final", "transient"):
            assert getattr(ours.memory, f"kv_bytes_{figure}") == getattr(alone.memory, f"kv_bytes_{figure}")
        assert alone.memory.kv_bytes_peak <= ours.memory.kv_bytes_peak <= 1.2 * alone.memory.kv_bytes_peak
        assert ours.memory.kept_per_layer == alone.memory.kept_per_layer
        assert ours.memory.kept_ratio == alone.memory.kept_ratio
        assert ours.memory.evicted_entries == alone.memory.evicted_entries
        assert ours.memory.evicted_attention_mass == pytest.approx(alone.memory.evicted_attention_mass, abs=1e-5)


@needs_ranks
@pytest.mark.parametrize(("policy", "fields"), [({"name": "full"}, {}), (CORM, STREAMING)], ids=["full", "streaming"])
def test_two_ranks_share_keys_of_distant_tokens(policy, fields, leader, tiny_groups):
    requests = make_requests(3)
    one = answers(make_one(leader, tiny_groups, policy, **fields), requests)
    two = answers(make_two(leader, tiny_groups, policy, **fields), requests)
    for name, ours in two.items():
        assert (ours.token_ids, ours.kept_positions) == (one[name].token_ids, one[name].kept_positions)
        assert ours.memory.kv_bytes_final == one[name].memory.kv_bytes_final
        assert ours.memory.evicted_entries == one[name].memory.evicted_entries


@needs_ranks
def test_two_ranks_share_readings_as_one_does(leader, tiny_llama):
    """Two documents in turn, in a pool that holds one of them and a few questions; one is never asked about again."""

    policy = {"name": "h2o", "recent": 4, "pin_instruction": True, "budget": ADAKV}

    def ask(engine):
        readings = [engine.read([(i * 7 + n) % 199 for i in range(61)], instruction=()) for n in range(3)]
        for request in make_requests(3, new_tokens=9, instruction=(range(2),)):
            for number, reading in enumerate(readings[:2]):
                engine.add(replace(request, id=f"{number}{request.id}", reading=reading))
        readings[2].close()
        engine.add(Request("refused", [1], instruction=(), reading=readings[2]))
        done = answers(engine, [])
        for reading in readings:
            reading.close()
        return done, sum(reading.memory.preemptions for reading in readings)

    one, two = (make(leader, tiny_llama, policy, pages=50, compact_every=3, **LEAVING) for make in (make_one, make_two))
    (expected, _), (found, preempted) = ask(one), ask(two)
    assert str(found.pop("refused").error) == str(expected.pop("refused").error)
    assert len(found) == 6
    for name, completion in expected.items():
        assert found[name].token_ids == completion.token_ids
        assert found[name].kept_positions == completion.kept_positions
    assert preempted
    assert two.pool_bytes_used == 0


@needs_ranks
@pytest.mark.parametrize("stored", [False, True])
def test_two_ranks_share_8_bit_weights(stored, leader, tmp_path):
    """A rank's part of an input has scales of its own where ranks add up: close, not the same."""
    shape = {"hidden_size": 64, "intermediate_size": 512, "head_dim": 128}
    folder = save_random_model(llama_config(**shape), tmp_path / "model")
    if stored:
        store(folder, "blocks")
    load, policy = partial(load_model, folder, torch.float32, weights="fp8"), KVPolicy.from_spec({"name": "full"})
    one = Engine(load(leader.device), policy, settings(pages=40000))
    two = ParallelEngine(leader, load, policy, settings(pages=40000, tensor_parallel=2))
    prompt = [(7 * i * i) % 199 for i in range(30)]
    (done,) = one.run([Request("a", prompt, SamplingParams(max_new_tokens=12, ignore_eos=True))])
    ours, alone = (torch.tensor(engine.score(prompt, list(done.token_ids)).logprobs) for engine in (two, one))
    assert (ours - alone).abs().mean() < (1e-3 if stored else 0.25)


@needs_ranks
@pytest.mark.parametrize(
    ("storage", "num_bytes"), [("fp8", 2 * 16 + 2 * 4), ("think", 4 * (10 + 16)), ("lorc", 4 * (12 + 16))]
)
def test_two_ranks_keep_entries_in_fewer_bytes(storage, num_bytes, leader, tiny_llama):
    """Sums of ranks differ in their last digit, by which a number may round to the neighbour."""
    fields, prompt = {"storage": storage, **STREAMING}, make_requests(5)[4].token_ids
    one, two = make_one(leader, tiny_llama, CORM, **fields), make_two(leader, tiny_llama, CORM, **fields)
    answer = answers(one, make_requests(5))["4"]
    ours, alone = (
        torch.tensor(engine.score(prompt, answer.token_ids, uncompressed=False).logprobs) for engine in (two, one)
    )
    assert (ours - alone).abs().mean() < 0.02
    assert two.cache.pool.page_bytes == 4 * (num_bytes + 12)
    assert two.pool_bytes_used == 0


@needs_ranks
def test_a_tight_pool_preempts_and_changes_no_text(leader, tiny_llama):
    policy, requests = {**CORM, "tau": 8.0}, make_requests(5, new_tokens=40)[::-1]  # others keep more than the longest
    expected = answers(make_one(leader, tiny_llama, policy, compact_every=60), requests)
    tight = answers(make_two(leader, tiny_llama, policy, pages=200, compact_every=60), requests)
    assert sum(done.memory.preemptions for done in tight.values()) > 0
    assert {name: d.token_ids for name, d in tight.items()} == {name: d.token_ids for name, d in expected.items()}


@needs_ranks
@pytest.mark.parametrize("fields", [{"compact_every": 3}, STREAMING], ids=["exact", "streaming"])
def test_two_ranks_score_and_keep_everything_as_one_does(fields, leader, tiny_llama):
    written = make_requests(3)
    scored = [replace(one, id=f"one pass {one.id}", answer_ids=[3, 9] * 7, uncompressed=True) for one in written]
    forced = [replace(one, id=f"forced {one.id}", answer_ids=[3, 9] * 7) for one in written]
    whole = [replace(one, id=f"whole {one.id}", uncompressed=True) for one in written]
    requests = [*written, *scored, *forced, *whole]
    one = answers(make_one(leader, tiny_llama, CORM, **fields), requests)
    engine = make_two(leader, tiny_llama, CORM, **fields)
    two = answers(engine, requests)
    assert engine.pool_bytes_used == 0
    for name, ours in two.items():
        alone = one[name]
        assert (ours.token_ids, ours.kept_positions) == (alone.token_ids, alone.kept_positions)
        assert (ours.scores is None) == (alone.scores is None) == ("pass" not in name and "forced" not in name)
        if ours.scores is not None:
            assert ours.scores.logprobs == pytest.approx(alone.scores.logprobs, abs=1e-4)
            assert ours.scores.best_logprobs == pytest.approx(alone.scores.best_logprobs, abs=1e-4)
    prompt = written[0].token_ids
    assert engine.score(prompt, [3, 9] * 7).logprobs == pytest.approx(one["one pass 0"].scores.logprobs, abs=1e-4)


@needs_ranks
def test_two_ranks_hold_answers_to_a_form_as_one_does(leader, tmp_path):
    tokenizer, _ = byte_level()
    folder = save_random_model(llama_config(vocab_size=len(tokenizer)), tmp_path, seed=3)
    tokenizer.save_pretrained(folder)
    sampling = SamplingParams(max_new_tokens=12, temperature=1.0)
    several = (Grammar.of_regex("[a-z]{2,4}"), None, Grammar.of_choices(["yes", "no"]), Grammar.of_regex("a("))
    requests = [Request(str(i), list(range(9 + i)), sampling, grammar=grammar) for i, grammar in enumerate(several * 2)]
    expected = answers(make_one(leader, folder, {"name": "full"}), requests)
    two = answers(make_two(leader, folder, {"name": "full"}), requests)
    assert {name: one.token_ids for name, one in two.items()} == {name: one.token_ids for name, one in expected.items()}
    assert [one.finish_reason for _, one in sorted(two.items())] == ["stop", "length", "stop", "error"] * 2


@needs_ranks
def test_another_model_makes_no_more_groups(leader, tiny_llama):
    """Each is threads and sockets that stay; the ranks' own, and one of this rank alone, serve all models."""
    make_two(leader, tiny_llama, CORM)
    known = dict(dist.distributed_c10d._world.pg_map)
    make_two(leader, tiny_llama, CORM)
    assert dist.distributed_c10d._world.pg_map == known
    assert len(known) == 2


@needs_ranks
def test_a_cancelled_request_leaves_both_ranks(leader, tiny_llama):
    requests = make_requests(3)
    expected = answers(make_one(leader, tiny_llama, CORM), requests)
    engine = make_two(leader, tiny_llama, CORM)
    for request in requests:
        engine.add(request)
    with pytest.raises(ValueError, match="'1'"):
        engine.add(requests[1])
    for _ in range(4):
        engine.step()
    assert engine.pool_bytes_used > 0
    engine.cancel("1")
    engine.cancel("nobody")
    done = {}
    while engine.has_work:
        done |= {completion.id: completion for completion in engine.step()}
    assert done["1"].finish_reason == "cancelled"
    assert 0 < len(done["1"].token_ids) < 25
    assert all(done[name].token_ids == expected[name].token_ids for name in ("0", "2"))
    assert engine.pool_bytes_used == 0


@needs_ranks
def test_an_exception_in_another_rank_ends_the_engine_and_a_group_that_cannot_be_left_is_not_waited_for(
    leader, tiny_llama, monkeypatch
):
    """NCCL waits for ever where a graph still holds its collectives: they are let go first, and not waited for long."""
    engine = make_two(leader, tiny_llama, CORM, load_faulty)
    called, abort = [], dist.distributed_c10d._abort_process_group
    leader.forget_graphs = lambda: called.append("forget")
    with monkeypatch.context() as patch:
        patch.setattr(dist.distributed_c10d, "_abort_process_group", lambda: called.append("abort") or time.sleep(60))
        patch.setattr(parallel, "_GRACE_S", 2.0)
        started = time.monotonic()
        with pytest.raises(RankError, match="rank 1: RuntimeError: scripted fault"):
            answers(engine, make_requests(3))
        assert time.monotonic() - started < 40
    assert all(process.poll() is not None for process in leader._processes)
    assert called == ["forget", "abort"]
    with pytest.raises(RankError, match="closed"):
        engine.step()
    abort()
    assert not dist.is_initialized()


@needs_ranks
def test_a_killed_rank_ends_the_engine_at_once(leader, tiny_llama):
    engine = make_two(leader, tiny_llama, CORM)
    engine.add(make_requests(1)[0])
    engine.step()
    os.kill(leader._processes[0].pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(RankError, match="rank 1 ended with status -9"):
        answers(engine, [])
    assert time.monotonic() - started < 20


@needs_ranks
def test_no_rank_outlives_a_killed_leader(tiny_llama):
    pytest.importorskip("accelerate")
    code = f"from tests.engine.parallel_faults import lead_for_ever; lead_for_ever({tiny_llama!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, env=environment) as process:
        other = int(process.stdout.readline())
        time.sleep(0.5)  # into the middle of its steps
        assert is_running(other)
        process.kill()
    deadline = time.monotonic() + 10
    while is_running(other):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_heads_that_cannot_be_split_evenly_are_refused(tiny_llama):
    with pytest.raises(UnsupportedModelError, match=r"tensor_parallel of 3.*4 query heads and 2 kv heads"):
        Engine.from_pretrained(tiny_llama, policy=CORM, device="cpu", tensor_parallel=3)


def test_ranks_without_a_device_each_are_refused(tiny_llama):
    pytest.importorskip("accelerate")
    with pytest.raises(SpecError, match="2 ranks on 'cuda:1'"):
        Engine.from_pretrained(tiny_llama, policy=CORM, device="cuda:1", tensor_parallel=2)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "policy", [{"name": "full"}, {"name": "corm", "preset": "paper", "window": 32, "recent": 32, "tau": 2.0}]
)
def test_two_gpus_answer_what_one_does(policy, reference_model):
    """Real weights, prompts of thousands of tokens, decode in graphs that hold collectives."""
    pytest.importorskip("accelerate")
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    while SHARED:
        SHARED.pop().close()
    sampling = SamplingParams(max_new_tokens=48, ignore_eos=True)
    requests = [
        Request(str(n), [(7 * j * j + n) % 8000 for j in range(n)], sampling, return_kept_positions=True)
        for n in (300, 2900, 1111, 5)
    ]
    fields = {"policy": policy, "dtype": "float32", "device": "cuda", "kv_memory": "400MiB"}
    one, two = {}, {}
    for found, size in ((one, 1), (two, 2)):
        engine = Engine.from_pretrained(reference_model, tensor_parallel=size, **fields)
        found.update(answers(engine, requests))
        assert engine.pool_bytes_used == 0
        engine.close()
    for name, alone in one.items():
        assert two[name].token_ids == alone.token_ids
        assert_same_kept_but_for_rounding(two[name], alone)
