"""What is pinned of a prompt stays in every head, whatever a policy says of it, and counts towards its budget."""

from __future__ import annotations

import pytest
import torch

from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy
from tests.engine.test_corm_oracle import random_prompts
from tests.engine.test_published_policies import answer
from tests.policies.prompts import highest, layers_of

BUDGET = {"name": "uniform", "max_kept": 20}
POLICIES = {
    "corm": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "tau": 30.0},
    "corm bound": {"name": "corm", "preset": "paper", "window": 8, "recent": 4, "budget": BUDGET},
    "random": {"name": "random", "keep_ratio": 0.1, "recent": 4},
    "streaming_llm": {"name": "streaming_llm", "sinks": 0, "recent": 9},
    "snapkv": {"name": "snapkv", "recent": 4, "window": 4, "budget": BUDGET},
    "keydiff": {"name": "keydiff", "recent": 4, "budget": BUDGET},
    "tova": {"name": "tova", "recent": 4, "budget": BUDGET},
    "adakv": {"name": "snapkv", "recent": 4, "window": 4, "budget": {"name": "adakv", "max_kept": 20, "floor": 0.0}},
    "pyramidkv": {"name": "h2o", "recent": 4, "budget": {"name": "pyramidkv", "max_kept": 20}},
}


@pytest.mark.parametrize("prefill", ["exact", "streaming"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_first_entries_stay_in_every_head(name, prefill, tiny_llama):
    prompts = random_prompts((61, 5, 90), seed=len(name))
    config = {"prefill": prefill, "chunk_size": 16, "compact_every": 3}
    free, pinned = (answer(tiny_llama, prompts, 8, POLICIES[name] | {"pin_first": first}, **config) for first in (0, 9))
    for one, prompt in zip(pinned, prompts, strict=True):
        for layer in one.kept_positions:
            assert all({*range(min(9, len(prompt)))} <= set(head) for head in layer)
            if "budget" in POLICIES[name]:
                assert sum(map(len, layer)) <= 2 * 20 * (2 if name == "pyramidkv" else 1)
    assert any(not {*range(9)} <= set(head) for layer in free[0].kept_positions for head in layer)
    assert pinned[0].memory.evicted_entries > 0


def test_the_rest_goes_by_rank(tiny_llama):
    policy = {"name": "h2o", "recent": 5, "pin_first": 6, "budget": BUDGET}
    prompt = random_prompts((57,), seed=8)[0]
    (done,) = answer(tiny_llama, [prompt], 1, policy)
    for layer, kept in zip(layers_of(tiny_llama, prompt), done.kept_positions, strict=True):
        score = layer.weight.unflatten(0, (2, -1)).mean(dim=1).sum(dim=1)
        score[:, :6] = score[:, -5:] = torch.inf
        assert [set(head) for head in kept] == [highest(row, 20) for row in score]


def test_a_budget_must_have_room_for_what_never_leaves():
    with pytest.raises(SpecError, match=r"max_kept \(20\) must be at least recent \(15\) and pin_first \(6\)"):
        KVPolicy.from_spec({"name": "h2o", "recent": 15, "pin_first": 6, "budget": BUDGET})
    assert KVPolicy.from_spec({"name": "h2o", "recent": 14, "pin_first": 6, "budget": BUDGET}).num_first == 6
