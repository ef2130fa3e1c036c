"""The column reduction against votes counted one row at a time."""

from __future__ import annotations

import math

import pytest
import torch

from corm_batch.ops import dense
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import ALL_ROWS, Reduction, reduce_columns


def make_case(seed, kv_heads=2, group=3, rows=40, older=23):
    """Entries at ragged positions (padding among them), rows that follow, and the lse of what each row sees."""
    torch.manual_seed(seed)
    width, total = 8, older + rows
    position = torch.arange(1, total + 1, dtype=torch.int32).repeat(kv_heads, 1)
    position[0, 3] = position[1, 0] = NEVER  # ragged heads
    key = torch.randn(kv_heads, total, width)
    query = torch.randn(kv_heads * group, rows, width) * 1.5
    step = torch.arange(older + 1, total + 1, dtype=torch.int32)
    expiry = position.clamp(max=NEVER - 50) + torch.randint(1, 12, position.shape, dtype=torch.int32)
    entries = Entries(key, key, position, expiry, torch.rand(kv_heads, total))
    scores = dense.attention_scores(query, key, 0.5, None)
    scores.masked_fill_((position[:, None] > step[:, None])[:, None], -torch.inf)
    return query, scores.logsumexp(-1).reshape(kv_heads * group, rows), step, entries


def by_hand(reduction, query, lse, step, entries, gap_rule):
    """One row at a time, as it would be decoded."""
    kv_heads, total = entries.position.shape
    group = query.shape[0] // kv_heads
    expiry, statistic = entries.expiry.clone(), entries.statistic.clone()
    for r, t in enumerate(step.tolist()):
        for k in range(kv_heads):
            seen = [i for i in range(total) if entries.position[k, i] <= t]
            limit = math.inf
            if reduction.threshold is not None:
                limit = reduction.tau / (t if reduction.threshold == "step" else len(seen))
            for i in seen:
                heads = range(k * group, (k + 1) * group)
                weights = [math.exp(float(query[h, r] @ entries.key[k, i]) * 0.5 - float(lse[h, r])) for h in heads]
                hit = max(weights) >= limit
                alive = not gap_rule or t <= expiry[k, i]
                if hit and alive:
                    expiry[k, i] = max(int(expiry[k, i]), t + reduction.window)
                if reduction.statistic == "count_low":
                    statistic[k, i] += not hit
                elif hit and alive and reduction.statistic != "last":
                    statistic[k, i] = 0.0
                elif reduction.statistic == "last":
                    statistic[k, i] = sum(weights) / group
                elif reduction.statistic == "max":
                    statistic[k, i] = max(float(statistic[k, i]), *weights)
                elif reduction.statistic == "sum_squares":
                    statistic[k, i] += sum(weight**2 for weight in weights) / group
                else:
                    statistic[k, i] += sum(weights) / group
    return expiry, statistic


@pytest.mark.parametrize("gap_rule", [False, True])
@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(window=9, threshold="step"),
        Reduction(window=4, threshold="step", tau=2.0),
        Reduction(window=16, threshold="cache", tau=1.3),
        Reduction(window=1, threshold="step", tau=0.5),
        Reduction(window=7),
        Reduction(window=9, statistic="sum_squares"),
        Reduction(window=9, threshold="step", statistic="sum_squares"),
        Reduction(window=9, statistic="max"),
        Reduction(window=4, threshold="step", tau=2.0, statistic="max"),
        Reduction(window=9, threshold="step", tau=1.5, statistic="count_low"),
        Reduction(window=ALL_ROWS, threshold="cache", statistic="count_low"),
        Reduction(window=1, statistic="last"),
    ],
    ids=str,
)
def test_matches_votes_counted_by_hand(reduction, gap_rule, monkeypatch):
    monkeypatch.setattr(dense, "TILE_SCORES", 6 * 63 * 5)  # tiles of five rows at most
    for seed in range(2):
        query, lse, step, entries = make_case(seed)
        last = torch.full_like(entries.expiry, NEVER)
        voted = reduce_columns(reduction, query, lse, step, entries, last, 0.5, gap_rule=gap_rule)
        expiry, statistic = by_hand(reduction, query, lse, step, entries, gap_rule)
        real = entries.position != NEVER
        assert torch.equal(voted.expiry[real], expiry[real])
        torch.testing.assert_close(voted.statistic[real], statistic[real], rtol=1e-4, atol=1e-5)


def test_the_gap_rule_buries_a_key_for_good():
    query, lse, step, entries = make_case(7)
    reduction = Reduction(window=3, threshold="step", tau=1.0)
    last = torch.full_like(entries.expiry, NEVER)
    strict = reduce_columns(reduction, query, lse, step, entries, last, 0.5, gap_rule=True)
    lax = reduce_columns(reduction, query, lse, step, entries, last, 0.5, gap_rule=False)
    assert (strict.expiry <= lax.expiry).all()
    assert (strict.expiry < lax.expiry).any()


def test_what_attention_did_not_see_gets_no_vote_and_no_statistic():
    query, lse, step, entries = make_case(3)
    entries = entries._replace(statistic=torch.zeros_like(entries.statistic))
    nothing = torch.zeros_like(entries.expiry)
    voted = reduce_columns(Reduction(5, "step"), query, lse, step, entries, nothing, 0.5, gap_rule=False)
    assert torch.equal(voted.expiry, entries.expiry)
    assert voted.statistic.abs().max() == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"statistic": "median"}, "sum_squares.*median"),
        ({"statistic": "count_low"}, "threshold"),
        ({"statistic": "last"}, "window must be 1, got 4"),
    ],
)
def test_a_statistic_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        Reduction(window=4, **fields)
