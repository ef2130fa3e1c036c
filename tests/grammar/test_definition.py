"""The definition itself, on a case small enough to read."""

from corm_batch.grammar.definition import allowed


def test_tokens_that_begin_the_rest_of_an_answer_may_come_and_ends_behind_a_whole_one():
    tokens = [b"a", b"b", b"ab", b"abc", None, b""]
    assert allowed({b"ab", b"b"}, b"", tokens, {4}) == {0, 1, 2}
    assert allowed({b"ab", b"a"}, b"a", tokens, {4}) == {1, 4}
    assert allowed({b"ab"}, b"ab", tokens, {3, 4}) == {3, 4}
    assert allowed({b"ab"}, b"b", tokens, {4}) == set()
