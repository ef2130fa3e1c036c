"""Tokens that leave under every kind of policy: packed, preempted, compiled and in passes for several policies."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import EngineCore
from corm_batch.engine.fusion import fuse, slice_rows
from corm_batch.engine.loader import load_model
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.policies.base import KVPolicy
from tests.conftest import llama_config, save_random_model
from tests.engine.test_ensemble import assert_answers_are_those_of_each_alone
from tests.engine.test_propagating import ANSWER, PREFILLS, RULE, make_engine, prompts, scored
from tests.engine.test_score import run, run_preempting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a tiny random Llama of four layers."""
    return save_random_model(llama_config(num_hidden_layers=4), tmp_path_factory.mktemp("four"), seed=4)


POLICIES = {
    "corm": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5},
    "snapkv": {"name": "snapkv", "budget": {"name": "adakv", "max_kept": 20}, "window": 6, "recent": 8},
    "h2o pinned": {"name": "h2o", "recent": 4, "pin_first": 9, "budget": {"name": "uniform", "max_kept": 16}},
    "scissorhands": {"name": "scissorhands", "recent": 4, "budget": {"name": "uniform", "max_kept": 0.4}},
    "expected": {"name": "expected_attention", "budget": {"name": "uniform", "max_kept": 16}},
    "compactor": {"name": "compactor", "chunk": 10, "sketch": 12, "budget": {"name": "uniform", "max_kept": 16}},
    "fastgen": {"name": "fastgen", "special_ids": range(0, 199, 7), "punctuation_ids": [3], "recovery": 0.4},
    "sinks": {"name": "streaming_llm", "sinks": 2, "recent": 14},
}


@functools.cache
def loaded(folder, device):
    return load_model(folder, torch.float32, torch.device(device))


def engine_of(model, policy, rule=RULE, **fields):
    settings = {"kv_memory": "4MiB", "page_size": 4, "propagation": rule, **fields}
    return EngineCore(model, KVPolicy.from_spec(policy), EngineConfig.parse(settings))


@functools.cache
def uncompressed(folder, device, prefill):
    """Every prompt's answer, and what ANSWER scores, where no token leaves."""
    told = [replace(one, id=f"told {one.id}", uncompressed=True, answer_ids=ANSWER) for one in asked()]
    engine = engine_of(loaded(folder, device), {"name": "full"}, None, prefill=prefill, chunk_size=23)
    return run(engine, [*asked(), *told])


def asked(new_tokens=9, **fields):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    return [Request(str(i), ids, sampling, True, **fields) for i, ids in enumerate(prompts((61, 1, 34, 80, 47)))]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@PREFILLS
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_alone_packed_and_preempted(policy, fields, device, folder):
    """Beside requests that keep everything, whose tokens all go on; later layers hold nothing that was left behind."""
    fields = {"compact_every": 3, "max_sequences": 6, "step_token_budget": 150, **fields}
    alone, by_itself = {}, engine_of(loaded(folder, device), POLICIES[policy], **fields)
    for one in asked():
        alone |= run(by_itself, [one])
    engine = engine_of(loaded(folder, device), POLICIES[policy], **fields)
    went_on = {}
    rows_leave = engine.evictions.keep_rows

    def note(span, packed, *rest):
        stay = rows_leave(span, packed, *rest)
        went_on.setdefault(span.sequence.request.id, set()).update((packed[3][stay] - 1).tolist())
        return stay

    engine.evictions.keep_rows = note
    whole = [replace(one, id=f"whole {one.id}", uncompressed=True) for one in asked()]
    told = [replace(one, id=f"told {one.id}", uncompressed=True, answer_ids=ANSWER) for one in asked()]
    done = run_preempting(engine, [one for three in zip(asked(), whole, told, strict=True) for one in three])
    assert sum(one.memory.preemptions for one in done.values()) > 0
    full = uncompressed(folder, device, fields.get("prefill", "exact"))
    for one in asked():
        mine, size = done[one.id], len(one.token_ids)
        assert mine.token_ids == alone[one.id].token_ids
        assert mine.kept_positions == alone[one.id].kept_positions
        for layer, heads in enumerate(mine.kept_positions):
            for head in heads:
                assert layer < 2 or {at for at in head if at < size} <= went_on[one.id]
                assert "pinned" not in policy or set(range(min(9, size))) <= set(head)
        assert mine.memory.kept_per_layer == tuple(sum(map(len, heads)) for heads in mine.kept_positions)
        assert mine.memory.kept_ratio == pytest.approx(sum(mine.memory.kept_per_layer) / (4 * 2 * (size + 8)))
        assert done[f"whole {one.id}"].token_ids == full[one.id].token_ids
        assert done[f"whole {one.id}"].kept_positions == full[one.id].kept_positions
        assert done[f"told {one.id}"].scores.logprobs == pytest.approx(full[f"told {one.id}"].scores.logprobs, abs=1e-4)
    assert all(len(went_on[one.id]) < len(one.token_ids) for one in asked() if len(one.token_ids) > 20)


def test_several_policies_that_read_together_leave_the_same_tokens(folder):
    """One of them pins a prompt's first tokens, which go on for it alone."""
    model = loaded(folder, "cpu")
    config = EngineConfig.parse({"page_size": 4, "step_token_budget": 150, "max_sequences": 4, "propagation": RULE})
    policies = {label: fields for label, fields in POLICIES.items() if label != "fastgen"}
    assert_answers_are_those_of_each_alone(
        model, policies, config, asked(),
        lambda policy: run(engine_of(model, policy, step_token_budget=150, max_sequences=4), asked()),
    )  # fmt: skip


def test_compiled_layers_run_on_what_is_left(folder):
    """Prompts of three lengths: the logits are those of plain layers."""
    torch.compiler.reset()
    plain = scored(make_engine(folder))
    model = load_model(folder, torch.float32, torch.device("cpu"))
    slice_rows(model.module)
    fuse(model.module, backend="eager")
    config = EngineConfig.parse({"page_size": 4, "kv_memory": "4MiB", "propagation": RULE})
    compiled = scored(EngineCore(model, KVPolicy.from_spec({"name": "full"}), config))
    torch.compiler.reset()
    for one, other in zip(compiled, plain, strict=True):
        assert one.scores.logprobs == pytest.approx(other.scores.logprobs, abs=1e-4)
        assert one.kept_positions == other.kept_positions
