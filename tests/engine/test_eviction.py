"""Who survives: expiry first, then the policy's budget, head by head; the same in prefill, streaming and compaction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from corm_batch.engine.eviction import Eviction
from corm_batch.engine.policy_check import check_policy
from corm_batch.engine.ranks import ALONE
from corm_batch.engine.request import Request
from corm_batch.engine.sequence import Sequence
from corm_batch.engine.shape import ModelShape
from corm_batch.errors import SpecError
from corm_batch.kv.cache import KVCache
from corm_batch.kv.layers import Layers
from corm_batch.kv.layout import Layout
from corm_batch.ops.append import append_entries
from corm_batch.ops.packing import Packing
from corm_batch.ops.pages import NEVER, Column, Entries, entry_columns
from corm_batch.ops.top import order_entries
from corm_batch.policies.base import KVPolicy, ScoringPolicy, Seen
from corm_batch.policies.corm import Corm
from corm_batch.policies.full import Full
from corm_batch.policies.model import Model, Vocabulary
from corm_batch.policies.needs import Needs
from tests.ops.forms import MODEL


def make(policy, heads=3, width=2):
    columns = entry_columns(MODEL, width, torch.float32, policy.columns)
    cache = KVCache(2, Layers(1), heads, 200, Layout([columns], 4), MODEL, torch.device("cpu"))
    return Eviction(cache, [policy], ALONE)


def sequence(num_tokens, slot=0):
    """One whose prompt has so many tokens."""
    one = Sequence(Request("", [0] * num_tokens), 0, 1, torch.device("cpu"))
    one.slot = slot
    return one


def survivors(policy, entries, step):
    """Those of one layer."""
    eviction = make(policy)
    return eviction._survivors(0, [sequence(step)], entries, step, eviction.limits.most(0, step), step)


def make_entries(seed):
    draw = torch.Generator().manual_seed(seed)
    position = torch.arange(1, 31, dtype=torch.int32).repeat(3, 1)
    position[1, 20:] = NEVER  # a shorter head, padded
    expiry = torch.randint(20, 60, (3, 30), generator=draw, dtype=torch.int32)
    empty = torch.zeros(3, 30, 2)
    return Entries(empty, empty, position, expiry, torch.zeros(3, 30))


def corm(max_kept=None):
    return Corm(preset="paper", window=8, recent=3, budget=max_kept and {"name": "uniform", "max_kept": max_kept})


def test_what_a_later_query_may_see_stays_and_padding_never_does():
    entries = make_entries(0)
    keep = survivors(Full(), entries, 30)
    for head in range(3):
        for i in range(30):
            assert keep[head, i] == (entries.position[head, i] != NEVER and entries.expiry[head, i] >= 31)


def test_the_bound_holds_in_every_head_and_takes_the_lowest_rank():
    for seed in range(10):
        entries = make_entries(seed)
        alive, keep = survivors(corm(), entries, 30), survivors(corm(7), entries, 30)
        assert not (keep & ~alive).any()
        rank = order_entries(corm(7).rank(0, Seen(corm(7), entries), 30), entries.position)
        for head in range(3):
            assert keep[head].sum() == min(7, int(alive[head].sum()))
            dropped = alive[head] & ~keep[head]
            if dropped.any():
                assert rank[head][dropped].max() < rank[head][keep[head]].min()


def test_a_bound_no_head_reaches_changes_nothing():
    entries = make_entries(3)
    assert torch.equal(survivors(corm(30), entries, 30), survivors(corm(), entries, 30))


class ByKey(ScoringPolicy):
    """Small keys stay."""

    recent: int = 0

    @property
    def needs(self):
        return Needs(keys=True)

    def score(self, layer, entries, step):
        return -entries.key.norm(dim=-1)


class ByColumn(ScoringPolicy):
    """The same from a column of its own, and of another type beside it."""

    recent: int = 0
    columns = (Column("index", torch.int32), Column("norm"))

    def born(self, layer, key, value, position):
        return position * 3, key.norm(dim=-1)

    def score(self, layer, entries, step):
        assert torch.equal(entries["index"][entries.position < NEVER], 3 * entries.position[entries.position < NEVER])
        return -entries["norm"]


KEY = torch.tensor([1.0, 2, 3, 9, 8, 7, 6, 4])
"""Norms of eight keys: of four that may stay, those at positions 1, 2, 3 and 8 do."""


@pytest.mark.parametrize("kind", [ByKey, ByColumn])
@pytest.mark.parametrize("way", ["prefill", "streaming", "compaction"])
def test_a_policy_keeps_the_same_entries_whenever_it_is_asked(kind, way):
    policy = kind(budget={"name": "uniform", "max_kept": 4})
    eviction = make(policy, heads=1, width=1)
    cache, slot = eviction.cache, eviction.cache.open()

    def born(first, last):
        position = torch.arange(first, last + 1, dtype=torch.int32)[None]
        key = KEY[first - 1 : last, None][None]
        expiry = policy.expiry(0, position)
        return Entries(key, key, position, expiry, torch.zeros_like(key[..., 0]), policy.born(0, key, key, position))

    def store(entries, step):
        stage = cache.stage([slot], eviction.limits.pages(step))
        where = Packing.alone(entries.position.shape[1], cache.device)
        eviction.survivors([sequence(step, slot)], 0, entries, [step], where).store(cache, stage)
        cache.commit(stage)

    if way == "prefill":
        store(born(1, 8), 8)
    elif way == "streaming":
        store(born(1, 4), 4)
        ends = cache.ends([slot], None)
        where = Packing.of([4], cache.device), Packing.of(ends.widths[0] + 4, cache.device)
        store(cache.read_ends(ends, 0, born(5, 8), where), 8)
    else:
        store(born(1, 4), 4)
        for position in range(5, 9):
            cache.reserve(np.array([slot]))
            one = born(position, position).map(lambda column: column.transpose(0, 1)[:, :, ...])
            append_entries(cache.pages(0), cache.lists(0, torch.tensor([slot])), one, form=MODEL)
            cache.advance(np.array([slot]))

        class Running:
            num_cached, output, lost_statistic, num_compacted = 8, [0] * 5, torch.zeros(1), 0
            request = Request("", [0] * 4)
            num_shared = 0

        Running.slot = slot
        eviction.compact([Running])
    assert cache.read(slot, 0).position[0, :4].tolist() == [1, 2, 3, 8]
    assert cache.pages_held(slot) == 1
    assert cache.pages_held(slot) + cache.pool.num_free == cache.pool.num_pages


REQUIRED = {"duo_attention": {"scores": [[1.0, 0.0]] * 3}}
SHAPE = ModelShape(num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4, max_model_len=64, vocab_size=9)


class Undeclared(ByKey):
    @property
    def needs(self):
        return Needs()


class Unknown(ByKey):
    def score(self, layer, entries, step):
        return entries["norm"]


class Unvoted(ByKey):
    def score(self, layer, entries, step):
        return entries.statistic


class WrongType(ByKey):
    def score(self, layer, entries, step):
        return entries.position.long()


class WrongShape(ByKey):
    def rank(self, layer, entries, step):
        return super().rank(layer, entries, step)[..., :1]


class WrongColumn(ByColumn):
    def born(self, layer, key, value, position):
        return (position,)


class Failing(ByKey):
    def expiry(self, layer, position):
        return position / layer[0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Undeclared, "reads keys, which its needs do not name"),
        (Unknown, "'norm', which is not among its columns"),
        (Unvoted, "no reduction"),
        (WrongType, r"rank gives torch.int64.*expected torch.float32 or torch.int32"),
        (WrongShape, r"rank gives.*\(2, 1\), expected.*\(2, 9\)"),
        (WrongColumn, "born gives 1 columns, 2 are declared"),
        (Failing, "expiry failed: TypeError"),
    ],
)
def test_a_policy_that_does_not_do_as_it_declares_is_refused_when_a_model_is_loaded(kind, message):
    for good in (ByKey, ByColumn):
        check_policy(good(), SHAPE, torch.float32)
    with pytest.raises(SpecError, match=message):
        check_policy(kind(), SHAPE, torch.float32)


@pytest.mark.parametrize("name", KVPolicy.registered())
def test_every_policy_passes_the_check(name):
    policy = KVPolicy.from_spec({"name": name, **REQUIRED.get(name, {})})
    model = Model(SHAPE.num_layers, SHAPE.num_kv_heads, vocabulary=Vocabulary((0,), (1, 2)))
    check_policy(policy.for_model(model), SHAPE, torch.bfloat16)
