"""Members of an object are taken as they stand, and the first name that stands twice is told."""

import pytest

from corm_batch.named_once import named_once


def test_names_that_stand_once_are_an_object_in_their_order():
    assert list(named_once([("b", 1), ("a", [2]), ("", None)], KeyError).items()) == [("b", 1), ("a", [2]), ("", None)]
    assert named_once([], KeyError) == {}


@pytest.mark.parametrize("values", [(1, 2), (1, 1), (None, None)])
def test_a_name_that_stands_twice_is_an_error_of_the_caller_s_whatever_its_values(values):
    with pytest.raises(LookupError, match=r"^b$"):
        named_once([("a", 0), *(("b", value) for value in values)], LookupError)
