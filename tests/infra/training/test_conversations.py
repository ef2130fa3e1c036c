"""Varied conversations still say in short what was said."""

import random
import re

import pytest

from infra.training.conversations import (
    Conversation,
    drawn,
    joins,
    other_age,
    other_labels,
    other_sex,
    sexes,
    varied,
)
from tests.infra.training.conftest import VISIT

SHE = Conversation("Doctor: Is she well, Mrs. Vance?\nPatient: SHE is.", "Summarise.", "She is a 50-year-old female.")


def test_men_become_women_on_both_sides_and_the_other_way_round():
    woman = other_sex(VISIT)
    assert woman.said == VISIT.said.replace("sir", "ma'am")
    assert woman.summary == "She is a 64-year-old woman who drinks only tea."
    man = other_sex(SHE)
    assert man.said == "Doctor: Is he well, Mr. Vance?\nPatient: HE is."
    assert man.summary == "He is a 50-year-old male."


@pytest.mark.parametrize(
    "line",
    ["I saw her.", "My father had it.", "I am pregnant.", "Oh man, it hurts.", "He, not she.", "The MS is worse."],
)
def test_sexes_stay_where_swapping_could_be_wrong(line):
    unsure = VISIT._replace(said=f"{VISIT.said}\nPatient: {line}")
    assert other_sex(unsure) == unsure


def test_sexes_are_those_of_the_people_spoken_of():
    assert [sexes(one) for one in (VISIT, SHE)] == [{"male"}, {"female"}]
    assert sexes(Conversation("There.", "", "Other.")) == set()


def test_an_age_changes_where_both_sides_say_it():
    ages = set()
    for seed in range(40):
        changed = other_age(VISIT, random.Random(seed))
        (age,) = re.findall(r"\d+", changed.summary)
        assert changed.summary == VISIT.summary.replace("64", age)
        assert changed.said.count("Sixty four") == (age == "64")
        ages.add(age)
    assert len(ages) > 20
    figures = VISIT._replace(said="Patient: I am 64.")
    changed = other_age(figures, random.Random(1))
    assert re.findall(r"\d+", changed.said) == re.findall(r"\d+", changed.summary) != ["64"]


@pytest.mark.parametrize("said", ["Patient: Sixty.", "Patient: Sixty four, sixty four!", "Patient: I had 640."])
def test_an_age_stays_where_it_is_not_said_once(said):
    unsure = VISIT._replace(said=said)
    assert other_age(unsure, random.Random(0)) == unsure
    sixty = unsure._replace(said="Patient: Sixty one pills.", summary="A 60-year-old.")
    assert other_age(sixty, random.Random(0)) == sixty


def test_labels_change_and_nothing_else():
    said = {other_labels(VISIT, random.Random(seed)).said for seed in range(40)}
    lines = {re.sub(r"^\w+: ", "", text, flags=re.MULTILINE) for text in said}
    assert len(said) >= 4
    assert len(lines) == 1


def test_short_conversations_of_people_of_one_sex_follow_one_another():
    tea = [VISIT._replace(summary=f"He drinks tea number {i}.") for i in range(6)]
    few, long = VISIT._replace(summary="Tea."), VISIT._replace(said=VISIT.said * 20)
    assert (joins(VISIT), joins(few), joins(long)) == (True, False, False)
    counts = set()
    for seed in range(200):
        one = drawn([*tea, few, long], random.Random(seed))
        numbers = re.findall(r"number (\d)", one.summary)
        counts.add(len(numbers))
        if len(numbers) > 1:
            assert one.said.count("Only tea") == len(numbers) == len(set(numbers))
            assert len(sexes(one)) == 1
            assert one.request == VISIT.request
    assert counts == {0, 1, 2, 3, 4}


def test_a_seed_says_which_conversation():
    assert drawn([VISIT, SHE], random.Random(3)) == drawn([VISIT, SHE], random.Random(3))
    assert len({varied(VISIT, random.Random(seed)) for seed in range(60)}) > 20
