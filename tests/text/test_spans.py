"""Where lists of token ids differ."""

from corm_batch.text.spans import changed_span, common_beginning, unchanged_ends


def test_a_changed_span_is_what_the_other_lacks():
    assert changed_span([1, 2, 9, 9, 3], [1, 2, 3]) == range(2, 4)
    assert changed_span([1, 2, 3], [1, 2, 3]) == range(3, 3)
    assert changed_span([5, 5, 5, 5], [5, 5]) == range(2, 4)
    assert changed_span([7], []) == range(0, 1)
    assert changed_span([1, 2], [1, 4, 4, 2]) == range(1, 1)


def test_unchanged_ends_are_what_both_have_and_a_token_more_at_each_seam():
    assert unchanged_ends([1, 2, 9, 8, 9, 3], [1, 2, 5, 3]) == (range(3), range(4, 6))
    assert unchanged_ends([1, 7, 7, 7, 1, 2], [1, 2]) == (range(2), range(3, 6))  # the ends may overlap in the other
    assert unchanged_ends([4, 4, 4], [4, 4, 4]) == (range(3), range(3))
    assert unchanged_ends([4, 5, 6], [7, 6]) == (range(1, 3),)
    assert unchanged_ends([4, 5, 6], [4]) == (range(2),)
    assert unchanged_ends([4], [5]) == ()
    assert unchanged_ends([], [5]) == ()


def test_what_lists_begin_with_alike_leaves_each_a_token():
    assert common_beginning([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]]) == 2
    assert common_beginning([[1, 2], [1, 2, 3]]) == 1
    assert common_beginning([[1], [1]]) == common_beginning([[], [1]]) == common_beginning([[2, 1], [1, 1]]) == 0
