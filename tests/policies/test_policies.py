"""Every registered policy against its contract, and the fields each one checks."""

from __future__ import annotations

import pytest
import torch

from corm_batch.errors import SpecError
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.corm import Corm
from corm_batch.policies.random import Random
from corm_batch.policies.sliding_window import SlidingWindow

POSITION = torch.arange(1, 41, dtype=torch.int32).expand(3, -1)


def entries_with(expiry):
    zeros = torch.zeros(3, 40)
    return Entries(zeros[..., None], zeros[..., None], POSITION, expiry, zeros)


@pytest.mark.parametrize("name", KVPolicy.registered())
def test_contract(name):
    policy = KVPolicy.from_spec({"name": name})
    expiry = policy.expiry(1, POSITION)
    assert expiry.dtype == torch.int32
    assert expiry.shape == POSITION.shape
    assert (expiry >= POSITION).all(), "a token must see itself"
    assert torch.equal(expiry, policy.expiry(1, POSITION))
    one = policy.expiry(1, POSITION[:, 6:7])
    assert torch.equal(one, expiry[:, 6:7]), "an entry's expiry must not depend on the others in the call"
    rank = policy.rank(entries_with(expiry), 40)
    assert rank.dtype == torch.int64
    assert all(len(set(row.tolist())) == 40 for row in rank)
    assert KVPolicy.from_spec(policy.to_spec()) == policy
    assert type(policy).summary()


def test_corm_expiry_is_recent_steps_after_birth_and_not_before_the_window_is_full():
    expiry = Corm(window=10, recent=4).expiry(0, POSITION)
    assert expiry[0].tolist() == [max(position + 4, 10) for position in range(1, 41)]


def test_corm_bound_never_drops_the_recent_and_drops_the_longest_unimportant_first():
    policy = Corm(window=10, recent=4, max_kept=6)
    expiry = torch.randint(41, 60, (3, 40), generator=torch.Generator().manual_seed(0)).int()
    order = policy.rank(entries_with(expiry), 40).argsort(dim=-1, descending=True) + 1
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
        ({"name": "corm", "recent": 10, "max_kept": 9}, "max_kept"),
        ({"name": "random", "keep_ratio": 1.5}, "policy.keep_ratio.*1.5"),
        ({"name": "full", "window": 3}, "policy.window"),
        ({"window": 3}, "policy.name"),
    ],
)
def test_wrong_fields_are_refused_by_path(spec, message):
    with pytest.raises(SpecError, match=message):
        KVPolicy.from_spec(spec)
