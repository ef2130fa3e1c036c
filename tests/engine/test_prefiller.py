"""A prefill step that finds too little memory: more room is made, or less is tried, and nobody's text changes."""

from __future__ import annotations

import pytest
import torch

from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import DocumentError
from tests.engine.test_scheduler import assert_books_balance, make_engine

CORM = {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 1.5}


def make_requests(lengths, new_tokens=6):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    return [Request(str(i), [(i * 31 + j * j) % 199 for j in range(n)], sampling) for i, n in enumerate(lengths)]


def texts(engine, requests):
    return {done.id: done.token_ids for done in engine.run(requests)}


def limit_memory(engine, tokens):
    """Let a forward pass over more than `tokens` tokens run out of memory after its first layers; how many did."""
    forward, failed = engine.model.module.forward, []

    def limited(*args, **kwargs):
        output = forward(*args, **kwargs)
        if kwargs["input_ids"].shape[1] > tokens:
            failed.append(kwargs["input_ids"].shape[1])
            raise torch.OutOfMemoryError("the device is full")
        return output

    engine.model.module.forward = limited
    return failed


@pytest.fixture
def engine(tiny_llama, request):
    engine = make_engine(tiny_llama, CORM, **getattr(request, "param", {}))
    forward = engine.model.module.forward
    yield engine
    engine.model.module.forward = forward


@pytest.mark.parametrize(
    "engine", [{}, {"prefill": "streaming", "chunk_size": 16}], indirect=True, ids=["exact", "streaming"]
)
def test_a_step_too_large_for_the_device_is_halved_and_changes_no_text(engine, tiny_llama):
    requests = make_requests([20, 24, 9, 30, 17])
    fields = {"prefill": engine.config.prefill, "chunk_size": 16}
    expected = texts(make_engine(tiny_llama, CORM, **fields), requests)
    failed = limit_memory(engine, 40)
    assert texts(engine, requests) == expected
    assert failed
    assert engine.scheduler.token_budget <= failed[0] // 2
    assert len(failed) == 1 or failed[-1] < failed[0]
    assert_books_balance(engine)
    assert engine.pool_bytes_used == 0


def test_a_document_too_large_for_the_device_fails_alone(engine, tiny_llama):
    requests = make_requests([20, 60, 9])
    expected = texts(make_engine(tiny_llama, CORM), requests)
    limit_memory(engine, 50)
    answers = {done.id: done for done in engine.run(requests)}
    assert isinstance(answers["1"].error, DocumentError)
    assert "60 prompt tokens" in str(answers["1"].error)
    assert "the device is full" in str(answers["1"].error)
    assert {name: answers[name].token_ids for name in ("0", "2")} == {name: expected[name] for name in ("0", "2")}
    assert engine.pool_bytes_used == 0


def test_a_prompt_that_outgrows_what_was_expected_sends_others_to_host_memory(tiny_llama):
    requests = make_requests([30, 34, 40, 44], new_tokens=20)
    expected = texts(make_engine(tiny_llama, {"name": "full"}), requests)
    engine = make_engine(tiny_llama, {"name": "full"}, pages=110, step_token_budget=44)
    engine.scheduler.kept_ratio = 0.1
    answers = {done.id: done for done in engine.run(requests)}
    assert {name: done.token_ids for name, done in answers.items()} == expected
    assert sum(done.memory.preemptions for done in answers.values()) > 0
