"""A summary says what was said, once, and in the order of the dialogue."""

import random
import re

import pytest

from infra.reference_model.dialogues import ONES, TENS, arrangements, dialogue, listed, spoken
from infra.reference_model.scores import degenerate

SEEDS = range(150)


def number(words):
    tens, _, ones = words.rpartition(" ")
    return (
        TENS.index(tens) * 10 + ONES.index(ones)
        if tens
        else (ONES if words in ONES else TENS).index(words) * (1 if words in ONES else 10)
    )


def test_numbers_are_spoken_as_they_are_counted():
    assert [number(spoken(value)) for value in range(100)] == list(range(100))
    assert (spoken(76), spoken(40), spoken(13)) == ("seventy six", "forty", "thirteen")


def test_lists_are_written_with_and():
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")


@pytest.mark.parametrize("exchanges", [1, 3, 8])
def test_two_speakers_take_turns_and_the_summary_has_a_sentence_an_exchange(exchanges):
    for seed in SEEDS:
        said, request, summary = dialogue(random.Random(seed), exchanges)
        speakers = [re.match(r"\[\w+\]|\w+:", line)[0] for line in said.split("\n")]
        assert len(set(speakers)) == 2
        assert speakers == speakers[:2] * (len(speakers) // 2)
        assert request.startswith("Summari")
        assert summary.endswith(".")
        assert len(re.findall(r"\.(?= |$)", summary)) in {exchanges, 6}  # friends arrange six things at most
        assert not degenerate(summary)


def test_every_figure_of_a_summary_was_said_in_figures_or_words():
    for seed in SEEDS:
        said, _, summary = dialogue(random.Random(seed), 6)
        for figure in re.findall(r"\d+", summary):
            assert figure in said or re.search(rf"\b{spoken(int(figure))}\b", said, re.IGNORECASE), summary


def test_names_of_a_summary_were_in_the_dialogue():
    for seed in SEEDS:
        first, second = "Anna", "Ben"
        for exchange in arrangements(random.Random(seed), first, second):
            names = set(re.findall(r"[A-Z]\w+", exchange.told)) - {first, second}
            assert all(name in f"{exchange.first} {exchange.second}" for name in names)


def test_a_seed_says_which_dialogue():
    assert dialogue(random.Random(1), 4) == dialogue(random.Random(1), 4)
    assert len({dialogue(random.Random(seed), 4)[0] for seed in SEEDS}) == len(SEEDS)
