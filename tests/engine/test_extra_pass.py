"""What a model reads behind a prompt: it sees all of the prompt, leaves nothing itself, and only then entries leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from corm_batch.engine import extra_pass
from corm_batch.engine.config import EngineConfig
from corm_batch.engine.open import Engine
from corm_batch.engine.policy_check import check_policy
from corm_batch.engine.request import Request, SamplingParams
from corm_batch.errors import CapacityError, OutOfPages, Shortage, SpecError
from corm_batch.ops.pages import NEVER, Column
from corm_batch.policies.base import ScoringPolicy
from corm_batch.policies.needs import Needs
from corm_batch.policies.reading import ExtraPass
from tests.engine.test_eviction import SHAPE
from tests.engine.test_prefiller import limit_memory
from tests.engine.test_scheduler import KVZIP, assert_books_balance, load, make_engine

STREAMING = {"prefill": "streaming", "chunk_size": 16}
SETTINGS = pytest.mark.parametrize("fields", [{}, STREAMING], ids=["exact", "streaming"])


def make_requests(lengths, new_tokens=6, **fields):
    sampling = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
    prompts = [[(i * 31 + j * j) % 199 for j in range(length)] for i, length in enumerate(lengths)]
    return [Request(str(i), ids, sampling, True, **fields) for i, ids in enumerate(prompts)]


def answers(engine, requests):
    done = {one.id: one for one in engine.run(requests)}
    assert engine.pool_bytes_used == 0
    return done


class Told(ScoringPolicy):
    """Goes by what it is told in three passes: two of the prompt's first six tokens stay, and the newest."""

    columns = (Column("born"), Column("passes", torch.int32))

    @property
    def needs(self):
        return Needs(extra_passes=True)

    def born(self, layer, key, value, position):
        return position.float() * 2, torch.zeros_like(position)

    def extra_passes(self, token_ids, room):
        return [ExtraPass(token_ids[:size] + 1, range(start, start + 2)) for size, start in ((3, 0), (1, 2), (2, 4))]

    def observe_extra(self, layer, entries, reading):
        parts = zip(reading.rows.slices, reading.entries.slices, reading.about, strict=True)
        found = [self.told(entries.map(lambda one, own=own: one[:, own]), rows, about, reading)
                 for rows, own, about in parts]  # fmt: skip
        return tuple(torch.cat(column, dim=1) for column in zip(*found, strict=True))

    def told(self, entries, rows, about, reading):
        (born, passes), step = entries.own, reading.step[rows]
        prompt, size, kv_heads = int(step[0]) - 1, len(step), len(entries.position)
        assert step.tolist() == list(range(prompt + 1, prompt + size + 1))
        place = torch.arange(1, prompt + 1, dtype=torch.int32).expand(kv_heads, -1)
        assert torch.equal(entries.position[:, :prompt], place)
        assert torch.equal(entries.position[:, -size:], step.expand(kv_heads, -1))
        assert (entries.position[:, prompt:-size] == NEVER).all()
        assert reading.token_ids[rows].tolist() == [token + 1 for token in (PROMPTS | TRIED)[prompt][:size]]
        assert torch.equal(born[:, 6:prompt], 2 * place[:, 6:].float())
        own = slice(about.start, about.stop)
        return place[:, own] * 1.0, passes[:, own] + place[:, own] % 3

    def score(self, layer, entries, step):
        return torch.where(entries["passes"] == 2, 1e9, 0.0) + entries["born"]


PROMPTS = {length: [(length * 31 + j * j) % 150 for j in range(length)] for length in (6, 13, 30)}
TRIED = {9: [0] * 9}
"""What a policy is tried on when a model is loaded."""


@SETTINGS
def test_a_policy_sees_all_of_a_prompt_in_every_pass_and_what_it_wrote_down(fields, tiny_llama):
    policy = Told(budget={"name": "uniform", "max_kept": 3}, recent=1)
    config = EngineConfig(page_size=4, kv_memory=1 << 20, compact_every=1, **fields)
    engine, sampling = Engine(load(tiny_llama), policy, config), SamplingParams(max_new_tokens=3, ignore_eos=True)
    done = answers(engine, [Request(str(n), ids, sampling, True) for n, ids in PROMPTS.items()])
    for length in PROMPTS:
        wanted = 1, 4, length + 1
        assert done[str(length)].kept_positions == ((wanted, wanted),) * 2


@pytest.mark.parametrize(("bound", "launches"), [(1 << 19, [1, 1, 1]), (500, [2, 2, 1]), (1, [7, 7, 1])])
def test_a_layer_launches_as_much_for_several_prompts_as_for_one(bound, launches, tiny_llama, monkeypatch):
    requests = make_requests([40, 61, 52])
    alone = [answers(make_engine(tiny_llama, KVZIP), [request])[request.id] for request in requests]
    engine, counts = make_engine(tiny_llama, KVZIP, step_token_budget=300), []
    dense, forward = engine.cache.ops.dense_attention, engine.model.module.forward

    def counted(*args):
        counts[-1] += 1
        return dense(*args)

    def passed(*args, **kwargs):
        counts.append(0)
        return forward(*args, **kwargs)

    monkeypatch.setattr(extra_pass, "GATHERED_ENTRIES", bound)
    monkeypatch.setattr(engine.cache, "ops", engine.cache.ops._replace(dense_attention=counted))
    monkeypatch.setattr(engine.model.module, "forward", passed)
    done = answers(engine, requests)
    # Once for the prompts, and once for their scores.
    assert [count // (2 * engine.shape.num_layers) for count in counts if count] == launches
    for one in alone:
        assert (done[one.id].token_ids, done[one.id].kept_positions) == (one.token_ids, one.kept_positions)


@SETTINGS
def test_the_first_token_is_that_of_a_full_cache_and_comes_when_all_is_read(fields, tiny_llama):
    requests = make_requests([40, 61])
    full = answers(make_engine(tiny_llama, {"name": "full"}, **fields), requests)
    engine = make_engine(tiny_llama, KVZIP, step_token_budget=300, **fields)
    for request in requests:
        engine.add(request)
    first, second = engine.scheduler.waiting
    assert [len(one.extra_passes) for one in (first, second)] == [4, 6]
    steps = 1 + 2 if not fields else 3 + 4  # no more tokens behind a prompt at a time than of itself
    for _ in range(steps):
        assert not first.output
        engine.step()
    assert first.output == [full["0"].token_ids[0]]
    assert engine.stats.prompt_tokens == 101
    done = answers(engine, [])
    assert done["1"].token_ids[0] == full["1"].token_ids[0]
    assert done["1"].memory.kv_bytes_transient == max(61 if not fields else 16, 1 + 8 + 1 + 11) * 2 * 128


@SETTINGS
def test_admission_counts_the_full_cache_until_all_is_read(fields, tiny_llama):
    requests = make_requests([60] * 5)
    roomy = answers(make_engine(tiny_llama, KVZIP, **fields), requests)
    engine = make_engine(tiny_llama, KVZIP, pages=115, step_token_budget=400, **fields)  # 60 fill 15 in each of 4 lists
    engine.scheduler.kept_ratio = 0.1
    together = []
    for request in requests:
        engine.add(request)
    done = {}
    while engine.has_work:
        done |= {one.id: one for one in engine.step()}
        together.append(len(engine.scheduler.partial))
        assert_books_balance(engine)
    assert max(together) == 1
    assert engine.stats.most_in_flight > 1
    for name, one in roomy.items():
        assert (done[name].token_ids, done[name].kept_positions) == (one.token_ids, one.kept_positions)
        assert (done[name].memory.preemptions, done[name].memory.kv_bytes_peak) == (0, 4 * 15 * 4 * 144)


def test_a_prompt_whose_full_cache_has_no_room_fails_alone(tiny_llama):
    done = answers(make_engine(tiny_llama, KVZIP, pages=50), make_requests([60, 20]))
    assert isinstance(done["0"].error, CapacityError)
    assert len(done["1"].token_ids) == 6


@SETTINGS
def test_passes_stay_within_the_budget_of_a_step(fields, tiny_llama):
    """Short prompts, each of which is read again behind many more tokens than it has."""
    policy = KVZIP | {"first_ids": [3] * 20, "budget": {"name": "uniform", "max_kept": 4}}
    requests = make_requests([9, 8, 7, 9, 8, 7])
    alone = {one.id: one.token_ids for request in requests for one in make_engine(tiny_llama, policy).run([request])}
    engine, sizes = make_engine(tiny_llama, policy, step_token_budget=70, **fields), []
    forward = engine.model.module.forward

    def measured(*args, **kwargs):
        sizes.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    engine.model.module.forward = measured
    try:
        done = answers(engine, requests)
    finally:
        engine.model.module.forward = forward
    assert 50 < max(sizes) <= 70
    assert {name: one.token_ids for name, one in done.items()} == alone


@SETTINGS
@pytest.mark.parametrize("how", ["cancel", "give up", "device"])
def test_what_ends_in_the_middle_of_its_passes_leaves_nothing_and_may_begin_anew(how, fields, tiny_llama):
    requests = make_requests([40, 30, 44])
    expected = answers(make_engine(tiny_llama, KVZIP, **fields), requests)
    engine = make_engine(tiny_llama, KVZIP, step_token_budget=300, **fields)
    forward = engine.model.module.forward
    for request in requests:
        engine.add(request)
    while not engine.scheduler.partial or not all(one.num_extra_passes for one in engine.scheduler.partial):
        engine.step()
    assert len(engine.scheduler.partial) == 3
    try:
        if how == "cancel":
            engine.cancel("1")
        elif how == "device":
            limit_memory(engine, 45)
        else:
            engine.scheduler.take_back(engine.scheduler.schedule(len), Shortage(OutOfPages(3)))
            assert engine.pool_bytes_used == 0
        done = answers(engine, [])
    finally:
        engine.model.module.forward = forward
    assert_books_balance(engine)
    if how == "cancel":
        cancelled = done.pop("1")
        assert (cancelled.finish_reason, cancelled.token_ids) == ("cancelled", ())
        assert cancelled.memory.kv_bytes_peak == 4 * 8 * 4 * 144
        del expected["1"]
    else:
        assert sum(one.memory.preemptions for one in done.values()) > 0
    for name, one in expected.items():
        assert (done[name].token_ids, done[name].kept_positions) == (one.token_ids, one.kept_positions)


def test_requests_that_keep_everything_or_are_scored_by_one_pass_read_nothing_more(tiny_llama):
    engine = make_engine(tiny_llama, KVZIP)
    (plain,) = make_requests([40])
    for one in (
        replace(plain, id="whole", uncompressed=True),
        replace(plain, id="scored", uncompressed=True, answer_ids=[3]),
        replace(plain, id="forced", answer_ids=[3, 4]),
    ):
        engine.add(one)
    assert [len(one.extra_passes) for one in engine.scheduler.waiting] == [0, 0, 4]
    assert {one.finish_reason for one in answers(engine, []).values()} == {"length"}


class Both(Told):
    @property
    def needs(self):
        return Needs(extra_passes=True, prompt=True)


class Silent(Told):
    def extra_passes(self, token_ids, room):
        return []


class Unknown(Told):
    def extra_passes(self, token_ids, room):
        return [ExtraPass(np.array([3, SHAPE.vocab_size]), range(2))]


class Shapeless(Told):
    def extra_passes(self, token_ids, room):
        return [ExtraPass(np.array([3]), range(4))]

    def observe_extra(self, layer, entries, reading):
        return tuple(column[:, :3] for column in entries.own)


class Twice(Told):
    def extra_passes(self, token_ids, room):
        return [ExtraPass(np.array([3]), range(3)), ExtraPass(np.array([3]), range(2, 4))]


class Wordless(Told):
    def observe_extra(self, layer, entries, reading):
        return ()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Both, "either the prompt's passes or extra ones, not both"),
        (Silent, "extra_passes gives none"),
        (Unknown, r"tokens of 0..8, got \[3, 9\]"),
        (Shapeless, r"column 'born' as observed gives .*\(2, 3\), expected .*\(2, 4\)"),
        (Twice, r"two extra passes are about one token: \[range\(0, 3\), range\(2, 4\)\]"),
        (Wordless, "observe_extra gives 0 columns, 2 are declared"),
    ],
)
def test_a_policy_that_asks_for_what_cannot_be_is_refused_when_a_model_is_loaded(kind, message):
    with pytest.raises(SpecError, match=message):
        check_policy(kind(), SHAPE, torch.float32)
