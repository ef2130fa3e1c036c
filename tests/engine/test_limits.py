"""What heads may hold, in entries and in pages, against counting them one by one."""

from __future__ import annotations

import numpy as np
import pytest

from corm_batch.engine.limits import Limits
from corm_batch.engine.ranks import ALONE, Ranks
from corm_batch.policies.base import KVPolicy


class Second(Ranks):
    """The second of two."""

    rank, size = 1, 2


class First(Ranks):
    """The first of them."""

    rank, size = 0, 2


def make(ranks=ALONE, **budget):
    policy = KVPolicy.from_spec({"name": "snapkv", "recent": 4, "window": 4, "budget": {"max_kept": 40, **budget}})
    return Limits([policy] * 3, 2, [16] * 3, ranks)


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 39, 40, 41, 500])
def test_uniform(num_tokens):
    limits, held = make(name="uniform"), min(num_tokens, 40)
    assert limits.mean_entries(num_tokens) == held
    assert limits.pages(num_tokens) == 3 * 2 * -(-held // 16)
    assert limits.joint == [False] * 3


def test_without_a_budget_everything_may_stay():
    limits = Limits([KVPolicy.from_spec({"name": "full"})] * 3, 2, [16] * 3, ALONE)
    assert (limits.most(1, 70), limits.mean_entries(70), limits.pages(70)) == (70, 70, 3 * 2 * 5)


def test_every_layer_has_its_own():
    limits = make(name="pyramidkv")
    mosts = [limits.most(layer, 500) for layer in range(3)]
    assert mosts[0] > mosts[1] > mosts[2]
    assert limits.mean_entries(500) == sum(mosts) // 3
    assert limits.pages(500) == sum(2 * -(-most // 16) for most in mosts)


def test_what_is_pinned_of_a_prompt_is_held_in_every_layer():
    limits = make(name="pyramidkv", beta=60)
    assert [limits.most(layer, 500, 30) for layer in range(3)] == [34 + 11, 34 + 6, 34]
    assert limits.most(2, 500) == 4
    assert limits.pages(500, 30) == sum(2 * -(-limits.most(layer, 500, 30) // 16) for layer in range(3))


def test_a_rank_takes_its_own_heads_of_a_table():
    policy = KVPolicy.from_spec({"name": "snapkv", "budget": {"name": "headkv", "scores": [[1, 2, 3, 4]] * 3}})
    alone, second = Limits([policy] * 3, 4, [16] * 3, ALONE), Limits([policy] * 3, 2, [16] * 3, Second())
    assert np.array_equal(second.most(0, 4000), alone.most(0, 4000)[2:])
    first = Limits([policy] * 3, 2, [16] * 3, First())
    assert first.mean_entries(4000) == second.mean_entries(4000) == int(second.most(0, 4000).mean())  # all admit alike
    assert first.pages(4000) < second.pages(4000)
    assert second.pages(4000) > alone.pages(4000) / 2  # the later heads have the higher scores


def test_heads_that_share_may_have_their_layer_for_one_alone():
    limits = make(Second(), name="adakv")
    assert limits.joint == [True] * 3
    assert limits.pages(500) == 3 * (2 * 2 * 40 // 16 + 2)
