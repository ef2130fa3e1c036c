"""A summary says what was said, once, and in the order of the dialogue."""

import random
import re

import pytest

from corm_batch.evaluation.metrics import degenerate
from infra.training.ailments import spoken, spoken_year
from infra.training.dialogues import arrangements, dialogue

SEEDS = range(150)


@pytest.mark.parametrize("exchanges", [1, 3, 8])
def test_two_speakers_take_turns_and_the_summary_tells_at_least_a_thing_an_exchange(exchanges):
    for seed in SEEDS:
        said, request, summary = dialogue(random.Random(seed), exchanges)
        speakers = [re.match(r"\w+(?=: )", line)[0] for line in said.split("\n")]
        assert len(set(speakers)) == 2
        assert speakers == speakers[:2] * (len(speakers) // 2)
        assert request.startswith("Summari")
        assert summary.endswith(".")
        assert not degenerate(summary)
        told = len(re.findall(r"\.(?= |$)", summary))
        assert told >= min(exchanges, 6) - 2  # two things may not go together


def test_every_figure_of_a_summary_was_said_in_figures_or_words():
    for seed in SEEDS:
        said, _, summary = dialogue(random.Random(seed), 6)
        for figure in re.findall(r"(?<![\d/])\d+(?![\d/])", summary.replace("out of 10", "")):
            number = int(figure)
            words = spoken_year(number) if number > 1900 else spoken(number)
            assert figure in said or re.search(rf"\b{words}\b", said, re.IGNORECASE), summary


def test_what_a_relative_says_is_of_someone_else():
    found = [said for said, *_ in (dialogue(random.Random(seed), 4) for seed in SEEDS) if "Guest_family: " in said]
    assert found
    for said in found:
        answers = " ".join(re.findall(r"Guest_family: (.*)", said))
        assert not re.search(r"\bI (have|had|took|take|tried)\b|\bI'm (on|a|here|\w+ty)\b|\bI've\b", answers), said


def test_names_of_a_summary_were_in_the_dialogue():
    for seed in SEEDS:
        first, second = "Anna", "Ben"
        for exchange in arrangements(random.Random(seed), first, second):
            names = set(re.findall(r"[A-Z]\w+", exchange.told)) - {first, second}
            assert all(name in f"{exchange.first} {exchange.second}" for name in names)


def test_a_seed_says_which_dialogue():
    assert dialogue(random.Random(1), 4) == dialogue(random.Random(1), 4)
    assert len({dialogue(random.Random(seed), 4)[0] for seed in SEEDS}) == len(SEEDS)
