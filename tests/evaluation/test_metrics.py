"""Scores against values worked out by hand or known from the literature."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corm_batch.evaluation.metrics import (
    METRICS,
    best,
    degenerate,
    rouge_l,
    share,
    squad_exact,
    squad_f1,
    wilson,
    words,
)


@pytest.mark.parametrize(
    ("got", "answer", "said"),
    [("In OSLO.", " Oslo ", 1), ("Osloites", "oslo", 1), ("12 men", "2", 0), ("120", "12", 0), ("3, 12.", "12", 1),
     ("12,500", "12", 0), ("0.12", "12", 0),
     ("no. 7b", "7", 1), ("$5 (net)", "$5 (", 1), ("Bern", "Oslo", 0)],
)  # fmt: skip
def test_an_answer_is_contained_whatever_the_case_but_inside_a_number(got, answer, said):
    assert METRICS["contains"](got, answer) == said


@pytest.mark.parametrize(
    ("got", "answer", "exact", "f1"),
    [
        ("cat", "cat", 1, 1),
        ("The cat!", "a Cat", 1, 1),
        ("the cat sat", "cat", 0, 2 / 3),
        ("cat", "the cat sat", 0, 2 / 3),
        ("cat sat on mats", "on the mats, dogs", 0, 4 / 7),
        ("cat cat cat", "cat", 0, 1 / 2),
        ("U.S.", "us", 1, 1),
        ("an anthem", "anthem", 1, 1),
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("the", "cat", 0, 0),
        ("A", "A", 1, 1),
        ("B", "A", 0, 0),
    ],
)
def test_squad_compares_words_without_case_punctuation_and_articles(got, answer, exact, f1):
    assert squad_exact(got, answer) == exact
    assert squad_f1(got, answer) == pytest.approx(f1)


def test_the_best_of_several_answers_counts():
    assert best(squad_f1, "the cat sat", ["dog", "cat", "cat sat"]) == 1
    assert best(squad_f1, "the cat sat", ["dog", "cat"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("got", "answer", "score"),
    [
        ("police kill the gunman", "Police killed the gunman.", 3 / 4),  # Lin 2004
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("a b c d", "a x c", 4 / 7),
        ("a", "a", 1),
        ("a b", "c", 0),
        ("", "a", 0),
        ("", "", 0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(got, answer, score):
    assert rouge_l(got, answer) == pytest.approx(score)


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_rouge_l_agrees_with_the_recursive_definition(left, right):
    @functools.cache
    def longest(i, j):
        if i == len(left) or j == len(right):
            return 0
        if left[i] == right[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    expected = 2 * longest(0, 0) / max(1, len(left) + len(right))
    assert rouge_l(" ".join(left), " ".join(right)) == pytest.approx(expected)


def test_words_are_lower_case_without_punctuation():
    assert words("It's 3.5 kg, O_K?") == ["it", "s", "3", "5", "kg", "o_k"]


@pytest.mark.parametrize(
    ("text", "is_degenerate"),
    [
        ("", True),
        ("... !", True),
        ("A sentence as people write it.", False),
        ("no", False),
        ("yes yes yes yes yes", False),  # its four words stand there twice
        ("yes yes yes yes yes yes", True),
        ("one two three four and one two three four", False),
        ("one two three four, one two three four. One two three four", True),
    ],
)
def test_a_text_is_degenerate_that_says_nothing_or_the_same_four_words_three_times(text, is_degenerate):
    assert degenerate(text) == is_degenerate


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_gives_the_intervals_of_the_literature(hits, count, low, high):
    assert wilson(hits, count) == pytest.approx((low, high), abs=6e-5)


def test_a_share_counts_hits_and_brings_its_interval():
    assert share([True, 0.0, 1.0, False]) == {
        "hits": 2, "cases": 4, "share": 0.5, "low": wilson(2, 4)[0], "high": wilson(2, 4)[1]
    }  # fmt: skip
    assert share(hit for hit in [1.0]) | {"low": 0, "high": 1} == {
        "hits": 1, "cases": 1, "share": 1.0, "low": 0, "high": 1
    }  # fmt: skip
