"""Decode: how many steps between two looks, which graph runs them, and what happens when a step finds no memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from corm_batch.engine.decoder import graph_size
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import DocumentError
from tests.engine.test_prefiller import CORM, make_requests, texts
from tests.engine.test_scheduler import make_engine


def test_graphs_are_few_and_pad_little():
    sizes = [graph_size(count) for count in range(1, 513)]
    assert all(count <= size for count, size in enumerate(sizes, 1))
    assert all(size - count < max(2, min(count, 16)) for count, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4 + 31
    assert min(sizes) == 2


def test_a_graph_that_was_captured_serves_a_few_sequences_less():
    captured = [16, 208, 256]
    assert [graph_size(count, captured) for count in (256, 230, 208, 190, 176, 170)] == [256, 256, 208, 208, 176, 176]
    assert [graph_size(count, captured) for count in (16, 9, 8, 3)] == [16, 16, 8, 4]


def test_several_steps_at_a_time_are_one_step_at_a_time(tiny_llama):
    """Drawn tokens, ends of sequence in the middle of a run of steps, and the entries that stay are the same."""
    prompts = make_requests([12, 30, 25, 41])
    stops = {"1": lambda ids: len(ids) == 3, "3": lambda ids: ids[-1] % 5 == 0}
    requests = [
        Request(
            r.id,
            r.token_ids,
            SamplingParams(max_new_tokens=7 + i, temperature=i % 2, ignore_eos=True),
            return_kept_positions=True,
            stop=stops.get(r.id),
        )
        for i, r in enumerate(prompts)
    ]
    answers = []
    for steps in (1, 5):
        engine = make_engine(tiny_llama, CORM, compact_every=2)
        engine.decoder.num_steps = lambda sequences, steps=steps: steps
        answers.append({done.id: done for done in engine.run(requests)})
        assert engine.pool_bytes_used == 0
    one, five = answers
    for name, done in one.items():
        assert five[name].token_ids == done.token_ids
        assert five[name].kept_positions == done.kept_positions
        assert five[name].mean_logprob == pytest.approx(done.mean_logprob, abs=1e-5)
        assert five[name].memory.kept_per_layer == done.memory.kept_per_layer


def fail_above(engine, count):
    """Let decode steps of more than `count` sequences run out of memory."""
    run = engine.decoder.run

    def limited(sequences, num_steps):
        if len(sequences) > count:
            raise torch.OutOfMemoryError("the device is full")
        return run(sequences, num_steps)

    engine.decoder.run = limited


def test_fewer_sequences_decode_at_a_time_after_the_device_was_full(tiny_llama):
    requests = make_requests([20, 24, 9, 30, 17, 22])
    expected = texts(make_engine(tiny_llama, CORM), requests)
    engine = make_engine(tiny_llama, CORM)
    fail_above(engine, 2)
    assert texts(engine, requests) == expected
    assert engine.scheduler.max_running <= 2
    assert engine.pool_bytes_used == 0


def test_what_is_drawn_is_the_same_after_the_device_was_full(tiny_llama):
    sampling = SamplingParams(max_new_tokens=9, temperature=1.5, seed=3, ignore_eos=True)
    requests = [replace(one, sampling=sampling) for one in make_requests([20, 24, 9])]
    expected = texts(make_engine(tiny_llama, CORM), requests)
    engine = make_engine(tiny_llama, CORM)
    run, failed = engine.decoder.run, []

    def fail_once(sequences, num_steps):
        found = run(sequences, num_steps)
        if not failed:
            failed.append(len(sequences))
            raise torch.OutOfMemoryError("after the draws")
        return found

    engine.decoder.run = fail_once
    assert texts(engine, requests) == expected
    assert failed == [3]


def test_sequences_that_cannot_even_decode_alone_fail_one_by_one(tiny_llama):
    engine = make_engine(tiny_llama, CORM)
    fail_above(engine, 0)
    answers = list(engine.run(make_requests([20, 24, 9])))
    assert len(answers) == 3
    assert all(isinstance(done.error, DocumentError) for done in answers)
    assert engine.pool_bytes_used == 0
