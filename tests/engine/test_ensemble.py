"""Several policies behind one pass over a prompt: each has exactly what an engine of its own would have."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.ensemble import Ensemble, Need, side_by_side_at_most
from corm_batch.engine.loader import load_model
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import CapacityError, DocumentError, SpecError
from corm_batch.policies.base import KVPolicy
from tests.engine.test_scheduler import KVZIP
from tests.engine.test_score import prompts

POLICIES = {
    "full": {"name": "full"},
    "corm": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5},
    "snapkv": {"name": "snapkv", "budget": {"name": "adakv", "max_kept": 20}, "window": 8, "recent": 8},
    "expected": {"name": "expected_attention", "budget": {"name": "uniform", "max_kept": 24}, "recent": 4},
    "snapkv less": {"name": "snapkv", "budget": {"name": "uniform", "max_kept": 12}, "window": 8, "recent": 8},
    "sinks": {"name": "streaming_llm", "sinks": 2, "recent": 14},
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module", params=DEVICES)
def model(request, tiny_llama):
    """A tiny random Llama."""
    return load_model(tiny_llama, torch.float32, torch.device(request.param))


def config(**fields):
    return EngineConfig(**{"page_size": 4, "step_token_budget": 150, "max_sequences": 4, **fields})


def needs(model, settings, policies=POLICIES):
    return {label: Need(KVPolicy.from_spec(fields), model, settings) for label, fields in policies.items()}


def assert_answers_are_those_of_each_alone(model, policies, settings, requests, alone):
    """Policies that read together give what `alone(policy)` has, answers by their request's id."""
    found = list(Ensemble(needs(model, settings, policies), 1 << 24, 120).run(requests))
    for label, policy in policies.items():
        expected = alone(policy)
        for done in (one[label] for one in found):
            assert done.token_ids == expected[done.id].token_ids
            assert done.kept_positions == expected[done.id].kept_positions
            mass = expected[done.id].memory.evicted_attention_mass
            assert done.memory.evicted_attention_mass == (mass if mass is None else pytest.approx(mass, rel=1e-5))


def asked(**fields):
    sampling = SamplingParams(max_new_tokens=6, ignore_eos=True)
    return [Request(name, ids, sampling, return_kept_positions=True, **fields) for name, ids in prompts().items()]


def counted(model, monkeypatch):
    """Tokens of every forward pass of more than a few rows."""
    sizes = []
    run = model.module.forward
    monkeypatch.setattr(
        model.module, "forward", lambda **kwargs: sizes.append(kwargs["input_ids"].numel()) or run(**kwargs)
    )
    return sizes


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
def test_every_policy_scores_as_in_an_engine_of_its_own(model, prefill, monkeypatch):
    settings = config(prefill=prefill, chunk_size=32)
    answer = [(7 * i) % 199 for i in range(8)]
    requests = asked(answer_ids=answer)[:3]
    ensemble = Ensemble(needs(model, settings), 1 << 24, 160)
    sizes = counted(model, monkeypatch)
    found = list(ensemble.run(requests))
    monkeypatch.undo()
    if prefill == "exact":
        once = sum(len(request.token_ids) for request in requests)
        read = [size for size in sizes if size > settings.max_sequences]  # the others are decode steps
        assert sum(read) == once, "every prompt is read once, whatever the number of policies"
    assert [next(iter(done.values())).id for done in found] == [request.id for request in requests]
    for label, fields in POLICIES.items():
        alone = EngineCore(model, KVPolicy.from_spec(fields), settings.model_copy(update={"kv_memory": 1 << 22}))
        expected = {done.id: done for done in alone.run(requests)}
        for done in (one[label] for one in found):
            other = expected[done.id]
            assert done.scores.logprobs == pytest.approx(other.scores.logprobs, abs=1e-4)
            assert done.scores.best_logprobs == pytest.approx(other.scores.best_logprobs, abs=1e-4)
            assert done.kept_positions == other.kept_positions
            assert done.memory.kv_bytes_peak == other.memory.kv_bytes_peak
            assert done.memory.kv_bytes_full == other.memory.kv_bytes_full
            assert done.memory.evicted_attention_mass == pytest.approx(other.memory.evicted_attention_mass, abs=1e-4)
            assert min(done.memory.prefill_s, done.memory.decode_s) > 0
    assert all(engine.pool_bytes_used == 0 for engine in ensemble.engines.values())


def test_answers_are_written_too(model):
    settings = config()
    ensemble = Ensemble(needs(model, settings), 1 << 24, 160)
    alone = EngineCore(model, KVPolicy.from_spec(POLICIES["corm"]), settings.model_copy(update={"kv_memory": 1 << 22}))
    expected = {done.id: done.token_ids for done in alone.run(asked())}
    assert {done["corm"].id: done["corm"].token_ids for done in ensemble.run(asked())} == expected


def test_a_cache_that_is_too_small_costs_its_own_documents_alone(model):
    settings, policies = config(), {name: POLICIES[name] for name in ("full", "sinks")}
    found = needs(model, settings, policies)
    ensemble = Ensemble(found, sum(need.num_bytes(60) for need in found.values()), 60)  # of lengths up to 120
    done = {one["full"].id: one for one in ensemble.run(asked(answer_ids=[1, 2, 3]))}
    assert isinstance(done["4"]["full"].error, CapacityError)
    assert [one["full"].error for name, one in done.items() if name not in "24"] == [None] * 3
    assert all(one["sinks"].error is None for one in done.values())


def test_what_an_engine_refuses_is_nobody_elses_loss(model):
    wrong = Request("wrong", [1, 2, 777], answer_ids=[1])
    found = list(Ensemble(needs(model, config()), 1 << 24, 160).run([wrong, *asked(answer_ids=[5, 6])]))
    assert all(isinstance(done.error, DocumentError) for done in found[0].values())
    assert all(done.error is None for one in found[1:] for done in one.values())


def test_a_device_without_room_for_a_pass_has_every_engine_try_by_itself(model, monkeypatch):
    ensemble = Ensemble(needs(model, config()), 1 << 24, 160)
    forward = type(model).forward

    def refuse(self, batch):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(
        type(model),
        "forward",
        lambda self, batch: refuse(self, batch) if hasattr(batch, "batches") else forward(self, batch),
    )
    done = list(ensemble.run(asked(answer_ids=[5, 6])))
    assert all(one.error is None and len(one.scores.logprobs) == 2 for each in done for one in each.values())


def test_policies_share_a_pass_as_far_as_their_caches_fit(model):
    found = needs(model, config())
    sizes = {label: need.num_bytes(400) for label, need in found.items()}
    assert sizes["full"] == sizes["corm"] > sizes["snapkv"] > 0
    assert side_by_side_at_most(found, sum(sizes.values()), 400) == [list(POLICIES)]
    assert side_by_side_at_most(found, 2 * sizes["full"], 400)[0] == ["full", "corm"]
    assert side_by_side_at_most(found, 1, 400) == [[label] for label in POLICIES]


def test_a_policy_that_cannot_serve_the_model_says_so(model):
    tables = {"name": "snapkv", "budget": {"name": "headkv", "scores": [[1.0]], "max_kept": 64}}
    (need,) = needs(model, config(), {"other": tables}).values()
    with pytest.raises(SpecError, match=r"policy\.budget\.scores: 1 layers, the model has 2"):
        need.num_bytes(100)


def test_what_is_read_behind_a_prompt_follows_the_pass_that_all_share(model):
    settings, requests = config(), asked()
    policies = {"full": POLICIES["full"], "kvzip": KVZIP | {"chunk": 40}}
    found = list(Ensemble(needs(model, settings, policies), 1 << 24, 160).run(requests))
    alone = EngineCore(model, KVPolicy.from_spec(policies["kvzip"]), settings.model_copy(update={"kv_memory": 1 << 22}))
    expected = {done.id: done for done in alone.run(requests)}
    for one in found:
        other = expected[one["kvzip"].id]
        assert (one["kvzip"].token_ids, one["kvzip"].kept_positions) == (other.token_ids, other.kept_positions)
        assert one["kvzip"].memory.kv_bytes_peak == other.memory.kv_bytes_peak
        assert one["full"].token_ids[0] == other.token_ids[0]
    need = Need(KVPolicy.from_spec(policies["kvzip"]), model, settings)
    assert need.num_bytes(100) == 4 * 25 * 4 * 144
