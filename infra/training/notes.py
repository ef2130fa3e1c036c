"""Made-up visits to a doctor as they are recorded, without capitals, and the note under headings that follows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from infra.training.dialogues import FIRST_NAMES, SMALL_TALK
from infra.training.visits import (
    OPENING,
    PRESENT,
    SOCIAL,
    Exchange,
    Patient,
    exchange,
    fitting,
    picked,
    sentences,
    values,
)

REQUEST = "Write a structured note summarising this conversation."
COMPLAINT = "CHIEF COMPLAINT"
FILLERS = ("um , ", "uh , ", "okay , ", "so , ", "yeah , ", "well , ", "you know , ", "alright , ", "")
ORDER = (
    OPENING, PRESENT, "MEDICAL HISTORY", "SURGICAL HISTORY", "FAMILY HISTORY", SOCIAL, "MEDICATIONS", "ALLERGIES",
    "REVIEW OF SYSTEMS", "PHYSICAL EXAM", "ASSESSMENT AND PLAN",
)  # fmt: skip
_MARKS = re.compile(r"(?<=\w)([.,?!])(?=\s|$)")


def heard(draw: random.Random, line: str, marks: bool) -> str:
    """A line as a recording has it: no capitals, a filler, and marks apart from the words or none."""
    line = (draw.choice(FILLERS) if draw.random() < 0.5 else "") + line.lower()
    return _MARKS.sub(r" \1", line) if marks else re.sub(r" ?[.,?!](?=\s|$)", "", line)


def things(draw: random.Random, patient: Patient) -> tuple[str, list[Exchange]]:
    """The complaint, and what is told at a whole visit: why, of the illness and the rest, what follows from it."""
    fit = fitting(patient)
    opening = next(p for p in fit if p.heading == OPENING)
    words = values(draw, patient)
    first = exchange(draw, opening._replace(answers=opening.answers[:2]), words)  # the others name no complaint
    told = [p for p in fit if p.heading in ORDER[1:-2]]
    last = [p for p in fit if p.heading in ORDER[-2:]]
    chosen = picked(draw, told, draw.randint(4, 12))
    chosen += sorted(draw.sample(last, draw.randint(1, 5)), key=lambda pattern: ORDER.index(pattern.heading))
    return words["bare"], [first, *(exchange(draw, pattern, values(draw, patient)) for pattern in chosen)]


def written(complaint: str, told: Sequence[Exchange]) -> str:
    """The note: what was told, gathered under headings in their usual order."""
    sections = {COMPLAINT: [sentences(f"{complaint}.")]}
    for heading in ORDER:
        if found := [one.told for one in told if one.heading == heading]:
            sections.setdefault(PRESENT if heading == OPENING else heading, []).extend(found)
    gaps = {PRESENT: " "}
    texts = (f"{heading}\n\n{gaps.get(heading, chr(10)).join(told)}" for heading, told in sections.items())
    return "\n\n".join(texts)


def note(draw: random.Random) -> tuple[str, str, str]:
    """A recorded visit, what is asked for, and the note of it."""
    patient, marks = Patient.drawn(draw), draw.random() < 0.6
    complaint, told = things(draw, patient)
    turns = [(f"Hi, {draw.choice(FIRST_NAMES)}. How are you?", draw.choice(("Good, how about you?", "Not too bad.")))]
    for one in told:
        turns.append((one.first, one.second))
        while draw.random() < 0.4:
            turns.append(draw.choice(SMALL_TALK))
    who = ("[doctor]", "[patient]")
    lines = (f"{name} {heard(draw, line, marks)}" for turn in turns for name, line in zip(who, turn, strict=True))
    return "\n".join(lines), REQUEST, written(complaint, told)
