"""Chunks of several prompts in one pass: it keeps of each what a pass of its own keeps, in one launch a layer."""

from __future__ import annotations

import pytest

from corm_batch.engine import chunk_pass
from corm_batch.engine.chunk_batch import ChunkBatch
from corm_batch.engine.work import Span
from tests.engine.test_batch import LENGTHS, POLICIES, count_launches, left_by, opened
from tests.engine.test_scheduler import make_engine

SINKS = {"name": "streaming_llm", "sinks": 2, "recent": 9}
CACHE = {"name": "corm", "threshold": "cache", "window": 8, "recent": 4, "tau": 1.5, "reach": 2}
LEAVING = {"propagation": {"name": "attention", "layer": 1, "share": 0.4, "window": 3, "pooling": 3, "first": 1}}


def read(engine, lengths, at_once, size=13):
    """What each prompt leaves in every layer, and what its budget cost it, read in chunks of so many tokens."""
    sequences = opened(engine, lengths)
    for start in range(0, max(lengths), size):
        spans = [Span(one, start, min(start + size, one.num_to_prefill)) for one in sequences]
        spans = [span for span in spans if span.num_tokens > 0]
        for group in [spans] if at_once else [[span] for span in spans]:
            batch = ChunkBatch(group, engine.evictions, engine.runner.prefiller.rotary)
            engine.model.forward(batch)
            batch.commit()
    return left_by(engine, sequences)


EVERY = [*POLICIES, SINKS, CACHE]
CASES = [(policy, {}, LENGTHS[0]) for policy in EVERY] + [(policy, {}, LENGTHS[1]) for policy in POLICIES[:2]]
CASES += [(policy, LEAVING, LENGTHS[0]) for policy in EVERY if policy["name"] != "full"]
CASES += [(POLICIES[1], {"storage": "int8"}, LENGTHS[0])]


@pytest.mark.parametrize(("policy", "fields", "lengths"), CASES, ids=lambda case: str(case)[:48])
def test_chunks_read_together_keep_what_each_keeps_alone(policy, fields, lengths, tiny_llama, monkeypatch):
    fields = {"prefill": "streaming", **fields}
    together = read(make_engine(tiny_llama, policy, **fields), lengths, at_once=True)
    alone = read(make_engine(tiny_llama, policy, **fields), lengths, at_once=False)
    monkeypatch.setattr(chunk_pass, "GATHERED_ENTRIES", 60)  # fewer are copied at a time than a pass has
    few = read(make_engine(tiny_llama, policy, **fields), lengths, at_once=True)
    for found in (together, few):
        for (kept, lost, pages), (expected, expected_lost, expected_pages) in zip(found, alone, strict=True):
            assert kept == expected
            assert lost == pytest.approx(expected_lost, rel=1e-4, abs=1e-6)
            assert pages == expected_pages


@pytest.mark.parametrize(("policy", "calls"), [(POLICIES[1], 1), (POLICIES[5], 3)], ids=["together", "one-by-one"])
def test_what_a_layer_launches_does_not_grow_with_the_chunks(policy, calls, tiny_llama):
    """But under a policy that looks at prompts itself, which sees one at a time."""
    engine = make_engine(tiny_llama, policy, prefill="streaming")
    launches, layers = count_launches(engine), engine.model.shape.num_layers
    read(engine, [20, 20, 20], at_once=True)
    passes, behind = 2, 1
    assert launches["dense_attention"] == launches["store_entries"] == calls * passes * layers
    assert launches["gather_entries"] == calls * behind * layers
    assert launches["reduce_columns"] <= calls * passes * layers
