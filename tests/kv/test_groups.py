"""Which layers share keys of distant tokens, and of which tokens a member has its own."""

import pytest
import torch

from corm_batch.kv.groups import Groups, Member
from corm_batch.ops.pages import NEVER


def test_members_are_numbered_behind_their_owner():
    groups = Groups(((1, 2), (4, 5, 6)), 3, 7)
    assert groups.members == {2: Member(1, 1), 5: Member(4, 1), 6: Member(4, 2)}
    assert groups.num_members(8) == [0, 1, 0, 0, 2, 0, 0, 0]


def test_what_is_proximal_is_what_the_next_query_sees_by_its_layers_own_keys():
    groups = Groups(((0, 1),), 3, 7)
    position = torch.arange(1, 30, dtype=torch.int32)
    assert groups.expiry(position).tolist() == [NEVER] * 3 + list(range(10, 36))
    for start in range(12):
        for stop in range(start, 25):
            seen = [at for at in range(start + 1, stop + 1) if int(groups.expiry(torch.tensor(at))) >= stop + 1]
            assert groups.num_proximal(start, stop) == len(seen)


@pytest.mark.parametrize("layers", [((0,),), ((0, 2),), ((1, 0),), ((0, 1), (1, 2)), ((3, 4), (0, 1))])
def test_groups_are_runs_of_layers_in_order(layers):
    with pytest.raises(ValueError, match="groups of two or more neighbouring layers"):
        Groups(layers, 0, 1)


@pytest.mark.parametrize(("first", "recent"), [(-1, 5), (0, 0)])
def test_a_querys_own_token_is_never_distant(first, recent):
    with pytest.raises(ValueError, match="recent of 1 or more"):
        Groups(((0, 1),), first, recent)


def test_a_model_has_the_layers():
    Groups(((2, 3),), 0, 1).check(4)
    with pytest.raises(ValueError, match=r"expected layers 0\.\.2"):
        Groups(((2, 3),), 0, 1).check(3)
