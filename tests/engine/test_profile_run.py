"""The pool of a GPU engine is what the largest forward pass leaves of it, and that pass then really fits."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from corm_batch.engine import profile_run
from corm_batch.engine.bases import find_layout
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.engine import by_layer
from corm_batch.engine.loader import load_model
from corm_batch.engine.open import Engine
from corm_batch.engine.profile_run import DRIVER_BYTES, measure_pool_bytes
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.policies.base import KVPolicy

SNAPKV = {"name": "snapkv", "window": 8, "recent": 8, "budget": {"name": "uniform", "max_kept": 16}}


@pytest.mark.gpu
def test_the_pool_leaves_room_for_the_longest_prompt(reference_model):
    free, _ = torch.cuda.mem_get_info()
    policy = {"name": "corm", "preset": "paper", "window": 32, "recent": 32, "tau": 2.0}
    engine = Engine.from_pretrained(reference_model, policy=policy, device="cuda", memory_fraction=1.0)
    assert 0.5 * free < engine.pool_bytes < free
    longest = engine.max_model_len - 8
    requests = [Request(str(i), [i + 1] * longest, SamplingParams(max_new_tokens=8, ignore_eos=True)) for i in range(6)]
    answers = list(engine.run(requests))
    assert [answer.error for answer in answers] == [None] * 6
    assert engine.pool_bytes_used == 0


@pytest.mark.gpu
@pytest.mark.parametrize("policy", [SNAPKV, {"name": "full"}])
def test_a_streaming_engine_leaves_room_to_score_the_longest_prompt(reference_model, policy):
    def engine(**fields):
        return Engine.from_pretrained(
            reference_model, policy=policy, device="cuda", memory_fraction=1.0, prefill="streaming", chunk_size=256,
            step_token_budget=512, **fields,
        )  # fmt: skip

    without = engine().pool_bytes
    torch.cuda.empty_cache()
    one = engine(room_for_scoring=True)
    assert one.pool_bytes < without
    longest = one.max_model_len - 8
    scores = one.score([5] * longest, [7] * 8)
    assert len(scores.logprobs) == 8


@pytest.fixture
def device_memory(monkeypatch):
    """A device of 1 GB on which a token takes 300 bytes, and 100 where nothing of it is kept; the passes run on it."""
    run = []

    def forward(_, batch):
        (span,) = batch.spans
        run.append((span.num_tokens, span.stores))

    monkeypatch.setattr(profile_run.LoadedModel, "forward", forward)
    monkeypatch.setattr(profile_run.torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(profile_run.torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(
        profile_run.torch.cuda, "max_memory_allocated", lambda device: run[-1][0] * (300 if run[-1][1] else 100)
    )
    monkeypatch.setattr(profile_run.torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(profile_run.torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    return run


def measured(folder, context, monkeypatch, **fields):
    model = load_model(folder, torch.float32, torch.device("cpu"))
    policy = KVPolicy.from_spec(SNAPKV)
    config = EngineConfig.parse({"storage": "model", "memory_fraction": 1.0, **fields})
    layout = find_layout(model, config, policy.columns, None)
    monkeypatch.setattr(type(model.shape), "context", lambda self, most: context)
    return measure_pool_bytes(config, model, by_layer(policy, model.layers({}), model.windows), layout)


@pytest.mark.parametrize(
    ("fields", "context", "taken", "passes"),
    [
        ({"prefill": "exact"}, 400, 300 * 400, [(400, True)]),
        ({"prefill": "exact", "room_for_scoring": True}, 400, 300 * 400, [(400, True)]),
        ({"prefill": "streaming"}, 400, 300 * 64, [(64, True)]),
        ({"prefill": "streaming", "room_for_scoring": True}, 400, 100 * 400, [(64, True), (400, False)]),
        ({"prefill": "streaming", "room_for_scoring": True}, 100, 300 * 64, [(64, True), (100, False)]),
    ],
)
def test_the_largest_pass_is_taken_off(tiny_llama, device_memory, monkeypatch, fields, context, taken, passes):
    found = measured(tiny_llama, context, monkeypatch, step_token_budget=64, **fields)
    assert device_memory == passes
    assert found == 10**9 - DRIVER_BYTES - taken


def test_an_engine_that_is_gone_takes_nothing(tiny_llama, device_memory, monkeypatch):
    class Gone:
        def __init__(self):
            self.itself = self

    def forward(*_):
        device_memory.append((100, True))
        told.append(gone() is None)

    monkeypatch.setattr(profile_run.LoadedModel, "forward", forward)
    gc.disable()
    try:
        told, gone = [], weakref.ref(Gone())
        assert gone() is not None
        measured(tiny_llama, 100, monkeypatch, step_token_budget=64)
    finally:
        gc.enable()
    assert told == [True], "the pass that is measured finds the room that it had"


def test_a_long_pass_is_measured_on_shorter_ones(tiny_llama, device_memory, monkeypatch):
    fields = {"prefill": "streaming", "room_for_scoring": True, "step_token_budget": 64}
    found = measured(tiny_llama, 131_072, monkeypatch, **fields)
    assert device_memory[1:] == [(16_384, False), (32_768, False)]
    assert found == 10**9 - DRIVER_BYTES - 100 * 131_072
