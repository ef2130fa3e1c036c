"""Every budget against its contract, and the published ones against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.budgets.adakv import AdaKV
from corm_batch.budgets.base import Budget, Place
from corm_batch.budgets.headkv import HeadKV
from corm_batch.budgets.pyramidkv import PyramidKV
from corm_batch.errors import SpecError
from corm_batch.policies.base import KVPolicy

REQUIRED = {"headkv": {"scores": [[1.0, 0.5], [0.0, 2.0], [0.1, 0.1]]}}
PLACES = [Place(layer, 3, 2, 5) for layer in range(3)]


@pytest.mark.parametrize("name", Budget.registered())
@pytest.mark.parametrize("num_tokens", [1, 40, 5000])
def test_contract(name, num_tokens):
    budget = Budget.from_spec({"name": name, "max_kept": 30, **REQUIRED.get(name, {})})
    mosts = [budget.most(place, num_tokens) for place in PLACES]
    heads = [[most] * 2 if isinstance(most, int) else list(most) for most in mosts]
    assert all(len(row) == 2 and min(row) >= 5 for row in heads), "newest entries have to fit"
    if num_tokens > 60:
        assert sum(map(sum, heads)) / 6 <= 30
    assert Budget.from_spec(budget.to_spec()) == budget
    assert type(budget).summary()


@pytest.mark.parametrize("layers", [1, 2, 32])
@pytest.mark.parametrize("num_tokens", [100_000, 1500, 700, 100])
def test_pyramidkv_is_the_line_of_the_paper_and_its_code(layers, num_tokens):
    budget, recent, beta = 1024, 32, 20
    last = (budget - recent) / beta
    first = 2 * (budget - recent) - last
    if first > num_tokens - recent:  # `pyramidkv_press.get_layer_budget`
        first = max(num_tokens - recent, budget - recent)
        last = 2 * (budget - recent) - first
    for layer in range(layers):
        line = first - layer * (first - last) / (layers - 1) if layers > 1 else (first + last) / 2
        most = PyramidKV(max_kept=budget, beta=beta).most(Place(layer, layers, 8, recent), num_tokens)
        assert most == recent + math.floor(line + 1e-9) or abs(recent + line - most) < 1e-6


def adakv_by_hand(rank, candidate, budget, floor):
    """One entry at a time, the highest first."""
    own, order = [0] * len(rank), []
    for k in range(len(rank)):
        held = sorted(rank[k, candidate[k]].tolist(), reverse=True)
        order += [(n < int(budget * floor + 1e-6), number, -k) for n, number in enumerate(held)]
    for *_, k in sorted(order, reverse=True)[: budget * len(rank)]:
        own[-k] += 1
    return own


@pytest.mark.parametrize("floor", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.int32])
def test_adakv_counts_the_highest_of_a_layer(kind, floor):
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        rank = torch.randint(-9, 9, (4, 25), generator=draw).to(kind)  # ties among them
        candidate = torch.rand(4, 25, generator=draw) < 0.8
        budget = AdaKV(max_kept=6, floor=floor)
        split = budget.split(Place(0, 1, 4, 0), 6, rank, candidate)
        assert split.tolist() == adakv_by_hand(rank, candidate, 6, floor)
        assert split.sum() <= 24
        both = budget.split(
            Place(0, 1, 4, 0), torch.tensor([[6], [9]]), torch.stack((rank, rank)), torch.stack((candidate, candidate))
        )
        assert both.tolist() == [split.tolist(), adakv_by_hand(rank, candidate, 9, floor)]


def test_adakv_leaves_every_head_what_must_stay():
    rank = torch.randn(3, 50)
    rank[0] += 100
    rank[:, -8:] = torch.inf
    for floor in (0.0, 0.2, 0.7):
        split = AdaKV(max_kept=10, floor=floor).split(Place(0, 1, 3, 8), 10, rank, torch.ones(3, 50, dtype=torch.bool))
        assert split.min() >= 8
        assert split[0] > 10


def test_headkv_gives_by_score():
    scores = [[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 2.0, 3.0]]  # of query heads, two in a group
    places, budget, beta = [Place(layer, 2, 2, 10) for layer in range(2)], 110, 1.25
    table = [[1.0, 0.0], [0.0, 3.0]]
    pool = (budget - 10) / beta * 2 * 2
    for place, row in zip(places, table, strict=True):
        wanted = tuple(10 + math.floor(score / 4.0 * pool + 100 - 100 / beta + 1e-9) for score in row)
        assert HeadKV(max_kept=budget, beta=beta, scores=scores).most(place, 10_000) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "headkv"}, "policy.budget.scores"),
        ({"name": "headkv", "scores": [[0.0, 0.0]]}, "policy.budget.scores: scores must be"),
        ({"name": "headkv", "scores": [[-1.0]]}, "scores must be"),
        ({"name": "adakv", "floor": 1.5}, "policy.budget.floor.*1.5"),
        ({"name": "pyramidkv", "beta": 0}, "policy.budget.beta.*0"),
        ({"name": "pyramid"}, r"policy.budget.name.*pyramid[\s\S]*pyramidkv"),
        ({"name": "uniform", "max_kept": 3}, r"budget.max_kept \(3\).*recent \(32\)"),
        ({"max_kept": 3}, "policy.budget.name"),
        (1024, "policy.budget.*1024"),
    ],
)
def test_wrong_budgets_are_refused_by_path(fields, message):
    with pytest.raises(SpecError, match=message):
        KVPolicy.from_spec({"name": "snapkv", "budget": fields})


@pytest.mark.parametrize(
    ("scores", "message"), [([[1.0, 2.0]], "1 layers, the model has 3"), ([[1.0] * 3] * 3, "3 heads.*2 kv heads")]
)
def test_a_table_for_another_model_is_refused(scores, message):
    with pytest.raises(SpecError, match=message):
        HeadKV(scores=scores).most(PLACES[0], 10)


@pytest.mark.parametrize("name", Budget.registered())
def test_a_share_is_as_many_entries_of_the_document(name):
    share = Budget.from_spec({"name": name, "max_kept": 0.25, **REQUIRED.get(name, {})})
    assert Budget.from_spec(share.to_spec()) == share
    for num_tokens, entries in ((1000, 250), (1001, 251), (8, 5)):  # never fewer than stay in any case
        count = Budget.from_spec({"name": name, "max_kept": entries, **REQUIRED.get(name, {})})
        for place in PLACES:
            assert share.most(place, num_tokens) == count.most(place, num_tokens)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, 0.0, True, "7", math.nan])
def test_a_bound_is_a_number_of_entries_or_a_share(wrong):
    with pytest.raises(SpecError, match=r"budget.max_kept: allowed are .* got") as caught:
        Budget.from_spec({"name": "uniform", "max_kept": wrong})
    assert len(str(caught.value).splitlines()) == 1


def test_one_is_an_entry_and_one_point_zero_the_whole_document():
    mosts = [Budget.from_spec({"name": "uniform", "max_kept": n}).most(Place(0, 1, 1, 0), 90) for n in (1, 1.0, 64.0)]
    assert mosts == [1, 90, 64]
