"""Where lists of token ids differ."""

from corm_batch.text.spans import changed_span


def test_a_changed_span_is_what_the_other_lacks():
    assert changed_span([1, 2, 9, 9, 3], [1, 2, 3]) == range(2, 4)
    assert changed_span([1, 2, 3], [1, 2, 3]) == range(3, 3)
    assert changed_span([5, 5, 5, 5], [5, 5]) == range(2, 4)
    assert changed_span([7], []) == range(0, 1)
    assert changed_span([1, 2], [1, 4, 4, 2]) == range(1, 1)
