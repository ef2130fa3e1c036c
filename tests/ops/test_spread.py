import pytest
import torch

from corm_batch.ops.pages import NEVER, Entries
from corm_batch.ops.reduction import Reduction, reduce_columns
from corm_batch.ops.spread import spread_hits


@pytest.mark.parametrize("reach", [0, 1, 3])
@pytest.mark.parametrize("seed", range(20))
def test_every_entry_within_reach_of_a_hit_and_no_other_is_hit(seed, reach):
    draw = torch.Generator().manual_seed(seed)
    position = torch.stack([torch.randperm(20, generator=draw)[:9] + 1 for _ in range(2)]).int()
    padding = torch.rand(2, 9, generator=draw) < 0.2  # anywhere: it lies between older and newer entries at times
    position, padding = position.masked_fill(padding, NEVER)[:, None], padding[:, None]
    hit = (torch.rand(2, 3, 9, generator=draw) < 0.2) & ~padding

    spread = spread_hits(hit, position, reach)

    distance = (position[..., :, None].long() - position[..., None, :].long()).abs()
    expected = ((distance <= reach) & hit[:, :, None, :]).any(dim=-1)
    assert torch.equal(spread & ~padding, expected & ~padding)


def test_a_hit_keeps_its_neighbours_as_long_as_itself_but_nothing_the_row_cannot_see():
    # One head, one voting row at step 6 whose query looks at position 2 and, less, at position 6.
    position = torch.arange(1, 9, dtype=torch.int32)[None]
    key = torch.zeros(1, 8, 4)
    key[0, 1, 0], key[0, 5, 0] = 9.0, 8.5
    entries = Entries(key, key, position, torch.zeros_like(position), torch.zeros(1, 8))
    query = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    lse = (query @ key[:, :6].transpose(1, 2)).logsumexp(dim=-1)
    step = torch.tensor([6], dtype=torch.int32)

    reduction = Reduction(window=5, threshold="step", tau=1.5, reach=1)
    never = torch.full_like(position, NEVER)
    voted = reduce_columns(reduction, query, lse, step, entries, never, 1.0, gap_rule=False)

    assert voted.expiry.tolist() == [[11, 11, 11, 0, 11, 11, 0, 0]]
