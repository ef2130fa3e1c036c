"""Questions and summaries over natural text ask for what stands in it."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.training.reading import (
    MOST_SHARED,
    NUMBERS,
    WORD,
    central,
    central_sentences,
    gaps,
    rouge_1,
    rouge_1_rest,
    sentences,
)

STORY = (
    "The old captain sailed to Lisbon in 1843 with his crew. It rained! "
    "Nobody on the quay had seen Mr Henry of Kent again since then.  “Who has the\nsilver key of the house now?” "
    "nobody asked, and lower case starts no sentence. In the end the crew of 27 sailors came home. "
    "The very last one is not at its end"
)


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


def test_sentences_are_whole_and_their_white_space_is_even():
    assert sentences(STORY) == [
        "The old captain sailed to Lisbon in 1843 with his crew.",
        "Nobody on the quay had seen Mr Henry of Kent again since then.",
        "In the end the crew of 27 sailors came home.",
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'He said: "We shall all come to the old house." Then he went away to the sea.',
            ['He said: "We shall all come to the old house."', "Then he went away to the sea."],
        ),
        ("It was seen by Mr. J. R. Brown of Kent, who paid 3.50 for it. Nobody else did that again.", [0, 1]),
        ("A HEADING\n\nThe chapter starts with a whole sentence.\nNobody knew about it then.", [1, 2]),
        ("went to Lisbon and never came back again. The others stayed at home.", ["The others stayed at home."]),
    ],
)
def test_sentences_start_behind_others_and_titles_and_initials_do_not_end_them(text, found):
    whole = re.split(r"(?<=for it\.) |\n+", text)
    assert sentences(text) == [whole[i] if isinstance(i, int) else i for i in found]


def test_gaps_of_a_story_leave_out_its_names_and_numbers():
    answers = {answer for seed in range(40) for _, answer in gaps(STORY, random.Random(seed), 5)}
    assert answers == {"Lisbon", "1843", "Mr Henry of Kent", "27"}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 24), book=st.integers(0, 26), start=st.integers(0, 8000))
def test_a_gap_asks_for_words_that_stand_at_its_place_in_a_sentence_of_the_text(books, seed, count, book, start):
    text = books[book][start : start + 4000]
    questions = gaps(text, random.Random(seed), count)
    assert len(questions) <= count
    for question, answer in questions:
        assert " ".join(text.split()).count(answer) >= 1
        before, after = question.removeprefix("Fill the gap: ").split("____")  # exactly one gap
        before, after = before.split(), after.split()
        assert any(
            is_subsequence(before, sentence[: match.start()].split())
            and is_subsequence(after, sentence[match.end() :].split())
            for sentence in sentences(text)
            for match in re.finditer(re.escape(answer), sentence)
        )


def test_a_text_of_many_names_gives_as_many_gaps_as_asked_for():
    assert len(gaps(STORY * 30, random.Random(0), 24)) == 24
    assert gaps("Nothing but lower case here, and no names.", random.Random(0), 24) == []


def test_central_sentences_are_sentences_of_the_text_in_order_and_as_many_as_asked_for(books):
    counts = set()
    for seed in range(20):
        text = books[seed]
        request, summary = central_sentences(text, random.Random(seed))
        said = re.fullmatch(r"Summarize the text in (\w+) sentences?\.", request)[1]
        counts.add(said)
        assert request.endswith("sentence.") == (said == "one")
        whole, rest = sentences(text), summary
        found = []
        while rest:
            (first, *_) = [i for i, sentence in enumerate(whole) if rest.startswith(sentence) and i not in found]
            found.append(first)
            rest = rest.removeprefix(whole[first]).lstrip()
        assert found == sorted(found)
        assert len(found) == NUMBERS.index(said) + 1
    assert counts == set(NUMBERS)


def test_the_central_sentence_is_the_one_that_shares_most_words_with_the_rest():
    filler = "Yellow parrots whistle above distant marble fountains every single {} evening."
    off = [filler.format(word) for word in ("summer", "winter")]
    odd = "Quantum engines hummed quietly beneath forgotten railway bridges somewhere else."
    text = f"{odd} {off[0]} {off[1]} "
    requests = {central_sentences(text, random.Random(seed)) for seed in range(30)}
    assert requests == {("Summarize the text in one sentence.", off[0])}  # of three sentences one at most
    assert central_sentences(odd, random.Random(0)) is None


def test_central_sentences_do_not_say_the_same_twice_and_quote_no_speech(books):
    for seed, book in enumerate(books[:10]):
        found = sentences(book)
        counts = [Counter(word.lower() for word in WORD.findall(s) if len(word) > 3) for s in central(found * 2, 5)]
        assert len(counts) == 5
        assert all(rouge_1(a, b) < MOST_SHARED for i, a in enumerate(counts) for b in counts[:i])
        assert not re.search('["“”]', central_sentences(book, random.Random(seed))[1])


def test_the_rest_of_a_text_is_what_a_part_leaves():
    whole, own = Counter(["a", "b", "b", "c", "d", "d", "e"]), Counter(["b", "d"])
    assert rouge_1_rest(own, whole) == pytest.approx(rouge_1(own, whole - own))


@pytest.mark.parametrize(
    ("left", "right", "score"),
    [
        ("a b c", "a b c", 1.0),
        ("a b c d", "a b", 4 / 6),
        ("a a a", "a", 2 / 4),
        ("a a b", "a a a c c", 4 / 8),
        ("a", "b", 0.0),
        ("", "", 0.0),
    ],
)
def test_rouge_1_is_the_f1_of_shared_words(left, right, score):
    assert rouge_1(Counter(left.split()), Counter(right.split())) == pytest.approx(score)
    assert rouge_1(Counter(right.split()), Counter(left.split())) == pytest.approx(score)
