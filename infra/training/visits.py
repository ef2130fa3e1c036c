"""What patients, or those who bring them, tell a doctor: one exchange a thing, with what is written down of it.

visits.txt has a block for each thing: its heading in a note with the question, then lines of answer and note, all in
several wordings between which `|` stands. Names in braces are what `values` draws and `Patient.words` says.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from corm_batch.evaluation.facts import SURNAMES
from infra.training import ailments
from infra.training.ailments import date, listed, spoken, spoken_year

OPENING, PRESENT, SOCIAL = "OPENING", "HISTORY OF PRESENT ILLNESS", "SOCIAL HISTORY"
ONCE = ("MEDICATIONS", "MEDICAL HISTORY")
"""Headings whose patterns could say opposite things of one patient."""
ADULT = 18


class Exchange(NamedTuple):
    """What the first speaker says, what the second answers, the summary of it, and where it stands in a note."""

    first: str
    second: str
    told: str
    heading: str = ""


class Pattern(NamedTuple):
    """Wordings of one thing: where it stands in a note, questions, and answers with what is written down."""

    heading: str
    asked: list[str]
    answers: list[tuple[list[str], list[str]]]

    @classmethod
    def read(cls, block: str) -> Pattern:
        """From a block of visits.txt."""
        first, *others = block.splitlines()
        heading, asked = first[1:].split("] ")
        sides = (line.split(" -> ") for line in others)
        return cls(heading, asked.split("|"), [(said.split("|"), told.split("|")) for said, told in sides])


PATTERNS = [Pattern.read(block) for block in Path(__file__).with_suffix(".txt").read_text("utf-8").split("\n\n")]


@dataclass(frozen=True)
class Patient:
    """Who is ill, and whether someone else answers for them."""

    sex: str
    age: int
    name: str
    brought: bool

    @classmethod
    def drawn(cls, draw: random.Random) -> Patient:
        """An adult who speaks; now and then a child or an old person whom a relative brings."""
        sex, brought = draw.choice(("male", "female")), draw.random() < 0.2
        age = draw.choice((draw.randint(2, 14), draw.randint(75, 97))) if brought else draw.randint(ADULT, 92)
        return cls(sex, age, draw.choice(SURNAMES), brought)

    def words(self) -> dict[str, str]:
        """How the patient speaks (`I`, `my`), is asked (`doyou`), and is written of (`he`, `his`)."""
        he, his, him = ("he", "his", "him") if self.sex == "male" else ("she", "her", "her")
        title = "Mr." if self.sex == "male" else "Ms."
        words = {"he": he, "his": his, "him": him, "sex": self.sex, "title": title, "name": self.name}
        words |= {"age": str(self.age), "old": spoken(self.age)}
        if self.brought:
            return words | {
                "I": he, "my": his, "me": him, "ive": f"{he}'s", "im": f"{he}'s", "s": "s", "es": "es", "have": "has",
                "dont": "doesn't", "doyou": f"does {he}", "haveyou": f"has {he}", "areyou": f"is {he}", "you": him,
                "wereyou": f"was {he}", "your": his,
            }  # fmt: skip
        return words | {
            "I": "I", "my": "my", "me": "me", "ive": "I've", "im": "I'm", "s": "", "es": "", "have": "have",
            "dont": "don't", "doyou": "do you", "haveyou": "have you", "areyou": "are you", "you": "you",
            "wereyou": "were you", "your": "your",
        }  # fmt: skip


def values(draw: random.Random, patient: Patient) -> dict[str, str]:
    """What the names in braces of a pattern stand for; `n_` is said where `n` is written."""
    words = patient.words()
    words["He"] = words["he"] if draw.random() < 0.75 else "the patient"
    numbers = {"n": (2, 12), "score": (2, 9), "small": (2, 6), "two": (11, 79), "low": (61, 99), "age2": (41, 93)}
    for name, (low, high) in numbers.items():
        number = draw.randint(low, high)
        words |= {name: str(number), f"{name}_": spoken(number)}
    dose, year = draw.choice(ailments.DOSES), draw.randint(1965, 2021)
    words |= {"dose": str(dose), "dose_": spoken(dose), "year": str(year), "year_": spoken_year(year)}
    words["date_"], words["date"] = date(draw)
    pairs: dict[str, Sequence[tuple[str, str]]] = {
        "often": ailments.OFTEN, "op": ailments.OPERATIONS, "cause": ailments.CAUSES,
    }  # fmt: skip
    for name, choices in pairs.items():
        words[f"{name}_"], words[name] = (side.format_map(words) for side in draw.choice(choices))
    for name, choices in (("ill", ailments.ILLNESSES), ("plain", ailments.PLAIN_SYMPTOMS)):
        for number, (said, written) in enumerate(draw.sample(choices, 2), 1):
            words |= {f"{name}{number}_": said, f"{name}{number}": written}
    for name in ("drug", "quality", "kin"):
        words[name], words[f"{name}2"] = draw.sample(LISTS[name], 2)
    words |= {name: draw.choice(LISTS[name]) for name in SINGLE}
    words["bare"] = words["what"].removeprefix("a ")
    words["yes1"], words["yes2"], *no = draw.sample(ailments.SYMPTOMS, 2 + draw.choice((1, 2, 2, 3, 3, 4)))
    return words | {"no_or": listed(no, "or"), "no_and": listed(no)}


SINGLE = ("what", "unit", "side", "worse", "better", "allergen", "reaction", "test", "doctor", "job", "hobby")
LISTS: dict[str, Sequence[str]] = {
    "drug": ailments.DRUGS, "quality": ailments.QUALITIES, "kin": ailments.RELATIVES, "what": ailments.COMPLAINTS,
    "unit": ailments.UNITS, "side": ("left", "right"), "worse": ailments.WORSE, "better": ailments.BETTER,
    "allergen": ailments.ALLERGENS, "reaction": ailments.REACTIONS, "test": ailments.TESTS, "doctor": ailments.DOCTORS,
    "job": ailments.JOBS, "hobby": ailments.HOBBIES,
}  # fmt: skip
_STARTS, _VOWELS = re.compile(r"(?:^|(?<=[.!?] ))[a-z]"), re.compile(r"\b([Aa]) (?=[aeiou8]|1[18]-|X-ray|MRI|EKG)")


def sentences(text: str) -> str:
    """Text with a capital letter where a sentence starts, and `an` before vowels."""
    return _STARTS.sub(lambda match: match[0].upper(), _VOWELS.sub(r"\1n ", text))


def exchange(draw: random.Random, pattern: Pattern, words: Mapping[str, str]) -> Exchange:
    """What is said and written of one thing, in one of its wordings."""
    said, told = draw.choice(pattern.answers)
    first, second, note = (
        sentences(draw.choice(wordings).format_map(words)) for wordings in (pattern.asked, said, told)
    )
    return Exchange(first, second, note, pattern.heading)


def fitting(patient: Patient) -> list[Pattern]:
    """What a patient can be asked: nobody asks children whether they smoke."""
    return [pattern for pattern in PATTERNS if pattern.heading != SOCIAL or patient.age >= ADULT]


def picked(draw: random.Random, patterns: Sequence[Pattern], count: int) -> list[Pattern]:
    """So many of the patterns at most, in any order, of which no two contradict each other."""
    chosen = draw.sample(patterns, min(count, len(patterns)))
    return [p for i, p in enumerate(chosen) if p.heading not in ONCE or all(q.heading != p.heading for q in chosen[:i])]


def labelled(one: Exchange) -> Exchange:
    """With its heading in front of what says nothing without it: Allergies: None."""
    return one if " " in one.told else one._replace(told=f"{one.heading.capitalize()}: {one.told}")


def visit(draw: random.Random, patient: Patient, exchanges: int) -> list[Exchange]:
    """So many things that a patient tells, at most; why the patient comes is told first.

    One thing may be any; more are either the story of one illness or a little of everything.
    """
    fit = fitting(patient)
    if exchanges == 1:
        return [exchange(draw, draw.choice(fit), values(draw, patient))]
    first, others = [p for p in fit if p.heading == OPENING], [p for p in fit if p.heading != OPENING]
    if draw.random() < 0.5:
        others = [p for p in others if p.heading == PRESENT]
    elif draw.random() < 0.5:
        first, exchanges = [], exchanges + 1
    chosen = [*first, *picked(draw, others, exchanges - 1)]
    return [labelled(exchange(draw, pattern, values(draw, patient))) for pattern in chosen]
