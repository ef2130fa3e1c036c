"""Every registered policy against its contract, and the fields each one checks."""

from __future__ import annotations

import pytest
import torch

from corm_batch.errors import SpecError
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.top import order_entries
from corm_batch.policies.base import KVPolicy, Seen
from corm_batch.policies.corm import Corm
from corm_batch.policies.model import Model, Vocabulary
from corm_batch.policies.random import Random
from corm_batch.policies.sliding_window import SlidingWindow

REQUIRED = {"duo_attention": {"scores": [[1.0, 0.5, 0.2], [0.0, 2.0, 0.1]]}}
MODEL = Model(2, 3, vocabulary=Vocabulary((0,), (1, 2)))
POSITION = torch.arange(1, 41, dtype=torch.int32).expand(3, -1)


def seen_by(policy, expiry, layer=1):
    """Entries as the engine shows them to the policy."""
    key = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    own = policy.born(layer, key, key, POSITION)
    return Seen(policy, Entries(key, key, POSITION, expiry, torch.rand(3, 40), own))


@pytest.mark.parametrize("name", KVPolicy.registered())
def test_contract(name):
    plain = KVPolicy.from_spec({"name": name, **REQUIRED.get(name, {})})
    policy = plain.for_model(MODEL)
    expiry = policy.expiry(1, POSITION)
    assert expiry.dtype == torch.int32
    assert expiry.shape == POSITION.shape
    assert (expiry >= POSITION).all(), "a token must see itself"
    assert torch.equal(expiry, policy.expiry(1, POSITION))
    one = policy.expiry(1, POSITION[:, 6:7])
    assert torch.equal(one, expiry[:, 6:7]), "an entry's expiry must not depend on the others in the call"
    rank = policy.rank(1, seen_by(policy, expiry), 40)
    assert rank.dtype in (torch.float32, torch.int32)
    assert rank.shape == POSITION.shape
    whole, last = seen_by(policy, expiry), POSITION[0, 40 - policy.num_pinned :]
    order = order_entries(policy.rank(1, whole, 40), POSITION)
    assert all(set((row.argsort(descending=True)[: len(last)] + 1).tolist()) == set(last.tolist()) for row in order)
    key = torch.randn(3, 40, 8)
    for column, of_one in zip(
        policy.born(1, key, key, POSITION), policy.born(1, key[:, 6:7], key[:, 6:7], POSITION[:, 6:7]), strict=True
    ):
        assert torch.equal(column[:, 6:7], of_one), "nor may what is born with it"
    assert KVPolicy.from_spec(plain.to_spec()) == plain
    assert type(policy).summary()


@pytest.mark.parametrize("num_tokens", [30, 1000, 100_000])
@pytest.mark.parametrize("name", KVPolicy.registered())
def test_candidates_are_settings_that_a_spec_can_say(name, num_tokens):
    found = KVPolicy.registered()[name].candidates(num_tokens)
    assert all(KVPolicy.from_spec(one.to_spec()) == one for one in found)
    assert len(set(map(repr, found))) == len(found)


def test_corm_expiry_is_recent_steps_after_birth_and_not_before_the_window_is_full():
    expiry = Corm(window=10, recent=4).expiry(0, POSITION)
    assert expiry[0].tolist() == [max(position + 4, 10) for position in range(1, 41)]


def test_the_preset_of_the_paper_is_its_settings_written_out_and_gives_way_to_what_is_given():
    paper = Corm(window=256, recent=256, tau=1.0, threshold="step", reach=0)
    assert Corm(preset="paper") == paper
    assert Corm(preset="paper").to_spec() == paper.to_spec()
    assert "preset" not in paper.to_spec()
    assert Corm(preset="paper", window=64, reach=4) == Corm(window=64, recent=256, tau=1.0, reach=4)
    assert Corm() == Corm(window=128, recent=64, tau=36.0, threshold="step", reach=64)
    with pytest.raises(SpecError, match=r"policy.preset: Input should be 'paper', got 'papre'"):
        KVPolicy.from_spec({"name": "corm", "preset": "papre"})


def test_corm_bound_never_drops_the_recent_and_drops_the_longest_unimportant_first():
    policy = Corm(window=10, recent=4, budget={"name": "uniform", "max_kept": 6})
    expiry = torch.randint(41, 51, (3, 40), generator=torch.Generator().manual_seed(0)).int()
    rank = policy.rank(0, seen_by(policy, expiry), 40)  # as hits of steps 31 to 40 make it
    order = order_entries(rank, POSITION).argsort(dim=-1, descending=True) + 1
    for head in range(3):
        assert set(order[head, :4].tolist()) == {37, 38, 39, 40}
        rest = [(int(expiry[head, p - 1]), p) for p in order[head, 4:].tolist()]
        assert rest == sorted(rest, reverse=True)


def test_random_differs_by_layer_head_and_seed_and_keeps_its_share():
    position = torch.arange(1, 5001, dtype=torch.int32).expand(4, -1)
    kept = {
        (layer, seed): Random(keep_ratio=0.25, seed=seed).expiry(layer, position) == NEVER
        for layer in range(2)
        for seed in range(2)
    }
    rows = [row for grid in kept.values() for row in grid]
    for i, row in enumerate(rows):
        assert 0.22 < row.float().mean() < 0.28
        assert all(0.1 < (row & other).float().mean() / row.float().mean() < 0.4 for other in rows[:i])
    assert not (Random(keep_ratio=0.0).expiry(0, position) == NEVER).any()
    assert (Random(keep_ratio=1.0).expiry(0, position) == NEVER).all()


def test_a_sliding_window_counts_the_query_itself():
    expiry = SlidingWindow(window=5).expiry(0, POSITION)
    step = 20
    assert POSITION[(step <= expiry) & (step >= POSITION)].unique().tolist() == [16, 17, 18, 19, 20]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "corm", "window": 0}, "policy.window.*0"),
        ({"name": "corm", "tau": -1}, "policy.tau"),
        ({"name": "corm", "threshold": "steps"}, "policy.threshold.*steps"),
        ({"name": "corm", "recent": 10, "budget": {"name": "uniform", "max_kept": 9}}, "max_kept"),
        ({"name": "corm", "budget": {"name": "uniform", "max_kept": 0}}, "policy.budget.max_kept.*0"),
        ({"name": "corm", "budget": {"name": "unifrom"}}, "policy.budget.name.*unifrom"),
        ({"name": "corm", "max_kept": 300}, "policy.max_kept"),
        ({"name": "snapkv", "budget": None}, "policy.budget"),
        ({"name": "random", "keep_ratio": 1.5}, "policy.keep_ratio.*1.5"),
        ({"name": "full", "window": 3}, "policy.window"),
        ({"window": 3}, "policy.name"),
    ],
)
def test_wrong_fields_are_refused_by_path(spec, message):
    with pytest.raises(SpecError, match=message):
        KVPolicy.from_spec(spec)
