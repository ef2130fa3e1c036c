"""Figures, years, days and lists are said as people say them."""

import random
from datetime import datetime

from infra.training.ailments import MONTHS, ONES, ORDINALS, TENS, date, listed, spoken, spoken_year


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


def test_years_are_spoken_in_halves_except_for_the_first_of_a_millennium():
    said = {1984: "nineteen eighty four", 1900: "nineteen hundred", 2000: "two thousand", 2007: "two thousand seven"}
    assert {year: spoken_year(year) for year in said} == said
    assert spoken_year(2012) == "twenty twelve"


def test_a_day_is_the_same_said_and_written():
    for seed in range(50):
        said, written = date(random.Random(seed))
        month, day, *year = said.split()
        found = datetime.strptime(written, "%m/%d/%Y")
        assert (MONTHS[found.month - 1], ORDINALS[found.day], spoken_year(found.year)) == (month, day, " ".join(year))


def test_lists_end_with_a_word():
    assert (listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
    assert listed(["a", "b", "c"], "or") == "a, b or c"
