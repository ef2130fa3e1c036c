"""Which layers have lists of their own."""

import pytest

from corm_batch.errors import SpecError, UnsupportedModelError
from corm_batch.kv.groups import Groups, Member
from corm_batch.kv.layers import Layers


def test_borrowers_have_no_rows_and_owners_outlive_themselves_as_long_as_somebody_borrows():
    layers = Layers(6, {2: 0, 4: 1, 5: 0})
    assert (layers.owners, layers.borrowers) == ((0, 1, 3), {2, 4, 5})
    assert [layers.row(layer) for layer in range(6)] == [0, 1, 0, 2, 1, 0]
    assert [layers.outlives(layer) for layer in range(6)] == [True, True, True, False, False, False]
    assert layers.most_at_once == 3  # in layer 3: its own, and two that are still wanted
    assert layers.own("abcdef") == ["a", "b", "d"]
    assert layers.spread("abd", "-") == ["a", "b", "-", "d", "-", "-"]
    plain = Layers(3)
    assert (plain.owners, plain.most_at_once, any(map(plain.outlives, range(3)))) == ((0, 1, 2), 1, False)


def test_what_an_owner_keeps_has_to_be_what_a_borrower_may_see():
    layers = Layers(4, {2: 0, 3: 1})
    layers.check_windows([8, None, 8, None])
    with pytest.raises(SpecError, match="layer 3 sees the newest 8 tokens and layer 1 all tokens"):
        layers.check_windows([8, None, 8, 8])
    with pytest.raises(SpecError, match=r"layer 4: the model has the layers 0\.\.3"):
        Layers(4, {4: 1})


def test_members_have_lists_of_their_own_and_keys_of_their_owner():
    layers = Layers(5, groups=Groups(((1, 2, 3),), 2, 6))
    assert (layers.owners, layers.borrowers, layers.num_members) == ((0, 1, 2, 3, 4), set(), [0, 2, 0, 0, 0])
    assert [layers.member(layer) for layer in range(5)] == [None, None, Member(1, 1), Member(1, 2), None]
    assert [layers.alone(layer) for layer in range(5)] == [True, False, False, False, True]
    layers.check_windows([8, None, None, None, 8])
    with pytest.raises(UnsupportedModelError, match=r"layer 2 shares keys .* sees the newest 8 tokens"):
        layers.check_windows([None, None, 8, None, None])
    with pytest.raises(SpecError, match=r"engine\.sharing: not with a model whose layers share keys"):
        Layers(5, {4: 0}, Groups(((1, 2),), 2, 6))
