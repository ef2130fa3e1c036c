"""Answers that repeat themselves are cut where a sentence ends, and nothing of them is lost."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.training.stutter import MOST_SENTENCES, MOST_TIMES, SEAM, stuttered

PLAIN = st.text("ab 1", min_size=1, max_size=8).filter(lambda words: words.strip())
ENDED = st.tuples(PLAIN, st.sampled_from([". ", ".  ", "? ", "; ", ".\n", "\n\n"])).map("".join)
ANSWERS = st.lists(ENDED, min_size=1, max_size=8).map(lambda parts: f" {''.join(parts).strip()}")


def words(text):
    return re.sub(r"\s+", " ", text).strip()


@given(ANSWERS, st.randoms(use_true_random=False))
def test_an_answer_is_whole_without_its_repetition_which_says_again_what_was_said_last(answer, draw):
    said, again, rest = stuttered(answer, draw)
    assert said + rest == answer
    assert said
    assert again
    sentences = SEAM.split(said)
    blocks = ["".join(sentences[-count:]) for count in range(1, MOST_SENTENCES + 1)]
    assert any(words(again) == words(f"{block} " * times) for block in blocks for times in range(1, MOST_TIMES + 1))
    assert again[0].isspace()


@pytest.mark.parametrize("answer", [" No cough.  No fever.  He smokes", " COUGH\n\nNo fever.", " a 12; b 7; c 40"])
def test_sentences_items_and_lines_are_repeated_and_start_like_those_that_follow(answer):
    first, *others = SEAM.split(answer)
    space = others[0][: -len(others[0].lstrip())]
    found = {stuttered(answer, random.Random(seed)) for seed in range(200)}
    assert {said for said, _, _ in found} == {first + "".join(others[:count]) for count in range(len(others) + 1)}
    block = space + first.lstrip()
    assert {again for said, again, _ in found if said == first} == {block, block * 2, block * 3}
