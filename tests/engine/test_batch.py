"""A pass over several prompts: what it keeps of each is what a pass of its own keeps, in one launch a layer."""

from __future__ import annotations

from collections import Counter

import pytest

from corm_batch.engine.batch import PrefillBatch
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.engine.work import Span
from tests.engine.test_scheduler import make_engine

UNIFORM = {"name": "uniform", "max_kept": 12}
POLICIES = [
    {"name": "corm", "window": 8, "recent": 4, "tau": 1.5, "reach": 2},
    {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "budget": UNIFORM, "pin_first": 3},
    {"name": "snapkv", "window": 4, "recent": 4, "budget": UNIFORM},
    {"name": "snapkv", "window": 4, "recent": 4, "budget": {"name": "adakv", "max_kept": 0.5}},
    {"name": "keydiff", "recent": 2, "budget": UNIFORM},
    {"name": "compactor", "recent": 2, "budget": UNIFORM},  # looks at each prompt itself
    {"name": "full"},
]
LENGTHS = ([30, 7, 1, 44], [20, 20, 20])


def read(engine, lengths, at_once):
    """What each prompt leaves in every layer, and what its budget cost it, read in one pass or one pass each."""
    sequences = opened(engine, lengths)
    groups = [sequences] if at_once else [[sequence] for sequence in sequences]
    for group in groups:
        spans, rotary = [Span(one, 0, one.num_to_prefill) for one in group], engine.runner.prefiller.rotary
        batch = PrefillBatch(spans, engine.evictions, rotary)
        engine.model.forward(batch)
        batch.commit()
    return left_by(engine, sequences)


def opened(engine, lengths):
    """Sequences of so many tokens, none of them read."""
    sequences = []
    for number, length in enumerate(lengths):
        ids = [(number * 31 + j * j) % 199 for j in range(length)]
        engine.add(Request(str(number), ids, SamplingParams(max_new_tokens=4, ignore_eos=True)))
        sequences.append(engine.scheduler.waiting.popleft())
        engine.scheduler.open(sequences[-1])
    return sequences


def left_by(engine, sequences):
    """What they leave in every layer, what their budget cost them, and their pages."""
    cache, found = engine.evictions.cache, []
    for sequence in sequences:
        entries = [cache.read(sequence.slot, layer) for layer in range(engine.model.shape.num_layers)]
        kept = [(one.position.tolist(), one.expiry.tolist()) for one in entries]
        found.append((kept, sequence.lost_statistic.tolist(), cache.pages_held(sequence.slot)))
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values()))[:40])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_prompts_read_together_keep_what_each_keeps_alone(policy, lengths, tiny_llama):
    together = read(make_engine(tiny_llama, policy), lengths, at_once=True)
    alone = read(make_engine(tiny_llama, policy), lengths, at_once=False)
    for (kept, lost, pages), (expected, expected_lost, expected_pages) in zip(together, alone, strict=True):
        assert kept == expected
        assert lost == pytest.approx(expected_lost, rel=1e-4, abs=1e-6)
        assert pages == expected_pages


@pytest.mark.parametrize(("policy", "calls"), [(POLICIES[1], 1), (POLICIES[5], 4)], ids=["together", "one-by-one"])
def test_what_a_layer_launches_does_not_grow_with_the_prompts(policy, calls, tiny_llama):
    """But under a policy that looks at prompts itself, which sees one at a time."""
    engine = make_engine(tiny_llama, policy)
    launches = count_launches(engine)
    read(engine, LENGTHS[0], at_once=True)
    assert launches["store_entries"] == calls * engine.model.shape.num_layers
    assert launches["reduce_columns"] <= calls * engine.model.shape.num_layers


@pytest.mark.parametrize("policy", [*POLICIES[:4], POLICIES[5]], ids=lambda policy: policy["name"])
def test_what_a_layer_launches_does_not_grow_with_the_questions_nor_with_the_readings(policy, tiny_llama):
    """Each reading is copied out of its pages once in a layer, and what is a question's own once for all."""
    engine = make_engine(tiny_llama, policy, step_token_budget=300, max_sequences=20)
    readings, found = [engine.read(list(range(length))) for length in (50, 33)], []
    engine.step()
    for asked in (1, 7):
        for number in range(asked):
            ids = [(number + j * j) % 199 for j in range(13 + 3 * number)]
            request = Request(f"{asked}-{number}", ids, SamplingParams(max_new_tokens=1), reading=readings[number % 2])
            engine.add(request)
        launches = count_launches(engine)
        engine.step()
        assert not engine.has_work
        assert launches.pop("top_entries", 0) <= engine.model.shape.num_layers  # none where few entries fit the budget
        found.append(dict(launches))
    layers = engine.model.shape.num_layers
    assert found[0] == found[1]
    assert (found[0]["dense_attention"], found[0]["gather_entries"], found[0]["store_entries"]) == (
        layers, 2 * layers, layers,
    )  # fmt: skip


def count_launches(engine):
    """How often each operation is called from now on."""
    launches, cache = Counter(), engine.evictions.cache

    def counted(name, operation):
        def run(*args, **kwargs):
            launches[name] += 1
            return operation(*args, **kwargs)

        return run

    cache.ops = cache.ops._replace(**{name: counted(name, getattr(cache.ops, name)) for name in cache.ops._fields})
    return launches
