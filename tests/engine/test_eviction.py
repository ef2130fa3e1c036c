"""Who survives: expiry first, then the policy's bound, head by head."""

from __future__ import annotations

import torch

from corm_batch.engine.eviction import survivors
from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.select import PLAIN
from corm_batch.policies.corm import Corm
from corm_batch.policies.full import Full


def make_entries(seed):
    draw = torch.Generator().manual_seed(seed)
    position = torch.arange(1, 31, dtype=torch.int32).repeat(3, 1)
    position[1, 20:] = NEVER  # a shorter head, padded
    expiry = torch.randint(20, 60, (3, 30), generator=draw, dtype=torch.int32)
    empty = torch.zeros(3, 30, 2)
    return Entries(empty, empty, position, expiry, torch.zeros(3, 30))


def test_what_a_later_query_may_see_stays_and_padding_never_does():
    entries = make_entries(0)
    keep = survivors(PLAIN, Full(), entries, 30)
    for head in range(3):
        for i in range(30):
            assert keep[head, i] == (entries.position[head, i] != NEVER and entries.expiry[head, i] >= 31)


def test_the_bound_holds_in_every_head_and_takes_the_lowest_rank():
    for seed in range(10):
        entries = make_entries(seed)
        policy = Corm(window=8, recent=3, max_kept=7)
        alive, keep = survivors(PLAIN, Corm(window=8, recent=3), entries, 30), survivors(PLAIN, policy, entries, 30)
        assert not (keep & ~alive).any()
        rank = policy.rank(entries, 30)
        for head in range(3):
            assert keep[head].sum() == min(7, int(alive[head].sum()))
            dropped = alive[head] & ~keep[head]
            if dropped.any():
                assert rank[head][dropped].max() < rank[head][keep[head]].min()


def test_a_bound_no_head_reaches_changes_nothing():
    entries = make_entries(3)
    loose = Corm(window=8, recent=3, max_kept=30)
    assert torch.equal(survivors(PLAIN, loose, entries, 30), survivors(PLAIN, Corm(window=8, recent=3), entries, 30))
