"""A request that keeps everything in an engine that compresses others: as in a full cache; no neighbour notices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corm_batch.engine.request import Request
from tests.conftest import save_random_model
from tests.engine.test_families import FAMILIES
from tests.engine.test_scheduler import KVZIP
from tests.engine.test_score import DEVICES, EXACT, STREAMING, make, requests, run, run_preempting

POLICIES = {
    "corm": {
        "name": "corm",
        "preset": "paper",
        "window": 8,
        "recent": 4,
        "tau": 1.5,
        "budget": {"name": "uniform", "max_kept": 30},
    },
    "snapkv": {"name": "snapkv", "budget": {"name": "uniform", "max_kept": 20}, "window": 8, "recent": 8},
    "adakv": {"name": "h2o", "recent": 4, "budget": {"name": "adakv", "max_kept": 12}},
    "keydiff": {"name": "keydiff", "recent": 4, "budget": {"name": "uniform", "max_kept": 16}},
    "expected_attention": {"name": "expected_attention", "budget": {"name": "uniform", "max_kept": 16}},
    "compactor": {"name": "compactor", "chunk": 10, "sketch": 12, "budget": {"name": "uniform", "max_kept": 16}},
    "kvzip": KVZIP | {"chunk": 40},
    "random": {"name": "random", "keep_ratio": 0.4, "recent": 5},
    "streaming_llm": {"name": "streaming_llm", "sinks": 2, "recent": 12},
}


def uncompressed(asked):
    return [replace(one, id=f"whole {one.id}", uncompressed=True) for one in asked]


CASES = [(name, STREAMING) for name in POLICIES] + [(name, EXACT) for name in ("corm", "adakv", "kvzip", "random")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("policy", "prefill"), CASES, ids=lambda part: part if isinstance(part, str) else part["prefill"]
)
def test_everything_stays_and_no_neighbour_notices(policy, prefill, device, tiny_llama):
    """Chunk by chunk, through compactions and a stay in host memory: the tokens of a full cache."""
    asked = requests(return_kept_positions=True)
    fields = {"compact_every": 3, **prefill}
    full = run(make(tiny_llama, {"name": "full"}, device, **fields), asked)
    alone = run(make(tiny_llama, POLICIES[policy], device, **fields), asked)
    engine = make(tiny_llama, POLICIES[policy], device, **fields)
    done = run_preempting(engine, [one for pair in zip(uncompressed(asked), asked, strict=True) for one in pair])
    assert sum(one.memory.preemptions for one in done.values()) > 0
    for name, one in full.items():
        whole, memory = done[f"whole {name}"], done[f"whole {name}"].memory
        assert whole.token_ids == one.token_ids
        assert whole.mean_logprob == pytest.approx(one.mean_logprob, abs=1e-4)
        assert whole.kept_positions == one.kept_positions
        assert (memory.kept_ratio, memory.evicted_entries, memory.evicted_attention_mass) == (1.0, 0, 0.0)
        assert (memory.kv_bytes_full, memory.kept_per_layer) == (one.memory.kv_bytes_full, one.memory.kept_per_layer)
        assert memory.kv_bytes_peak >= memory.kv_bytes_final >= memory.kv_bytes_full
        assert done[name].token_ids == alone[name].token_ids
        assert done[name].kept_positions == alone[name].kept_positions
        assert done[name].memory.evicted_attention_mass == pytest.approx(
            alone[name].memory.evicted_attention_mass, abs=1e-5, nan_ok=True
        )
    assert any(one.memory.kept_ratio < 0.8 for one in alone.values())


@pytest.mark.parametrize("prefill", [EXACT, STREAMING], ids=["exact", "streaming"])
def test_a_window_of_the_model_s_own_holds_all_the_same(prefill, tmp_path):
    folder = save_random_model(FAMILIES["gemma3"](), tmp_path)
    asked = requests(return_kept_positions=True)
    full = run(make(folder, {"name": "full"}, compact_every=1, **prefill), asked)
    done = run(make(folder, POLICIES["corm"], compact_every=1, **prefill), [*uncompressed(asked), *asked])
    for name, one in full.items():
        whole = done[f"whole {name}"]
        assert (whole.token_ids, whole.kept_positions) == (one.token_ids, one.kept_positions)
        assert whole.memory.kept_ratio == one.memory.kept_ratio


def test_admission_counts_its_whole_size_and_expects_no_more_of_others_for_it(tiny_llama):
    """What others are expected to keep would let all of them in, and most out again."""
    asked = [Request(str(i), [7, i] * 50) for i in range(4)]
    asked = [replace(one, sampling=requests()[0].sampling, uncompressed=True) for one in asked]
    engine = make(tiny_llama, POLICIES["corm"], pages=330)  # 120 tokens fill 30 pages in each of 4 lists
    engine.scheduler.kept_ratio = 0.01
    done = run(engine, asked)
    assert sum(one.memory.preemptions for one in done.values()) == 0
    assert engine.stats.most_in_flight == 2
    assert engine.scheduler.kept_ratio == 0.01


def test_scores_by_one_pass_take_no_room(tiny_llama):
    """All of them are admitted at once beside answers that fill the pool, and teach nothing about what others keep."""
    engine = make(tiny_llama, {"name": "full"}, pages=130, step_token_budget=1000)
    engine.scheduler.kept_ratio = 0.5
    asked = [Request(str(i), [7, i] * 50, answer_ids=[3] * 20, uncompressed=True) for i in range(6)]
    for one in asked:
        engine.add(one)
    assert {one.id for one in engine.step()} == set("012345")
    assert engine.scheduler.kept_ratio == 0.5
    assert engine.pool_bytes_used == 0
