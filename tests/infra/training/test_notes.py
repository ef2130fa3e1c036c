"""A note gathers under headings, once, what was told at the visit."""

import random
import re

from corm_batch.evaluation.metrics import degenerate
from infra.training.notes import ORDER, REQUEST, heard, note, written
from infra.training.visits import OPENING, Exchange

SEEDS = range(100)


def test_a_recording_has_no_capitals_and_its_marks_stand_apart_or_are_missing():
    for seed in SEEDS:
        assert heard(random.Random(seed), "Yes, I'm Ann.", True).endswith("yes , i'm ann .")
        assert heard(random.Random(seed), "Yes, I'm Ann.", False).endswith("yes i'm ann")


def test_a_note_has_its_headings_in_order_and_no_empty_one():
    for seed in SEEDS:
        said, request, text = note(random.Random(seed))
        assert request == REQUEST
        assert {line.split(" ")[0] for line in said.split("\n")} == {"[doctor]", "[patient]"}
        assert said == said.lower()
        parts = text.split("\n\n")
        headings, bodies = parts[::2], parts[1::2]
        assert headings[:2] == ["CHIEF COMPLAINT", ORDER[1]]
        assert headings[1:] == [heading for heading in ORDER if heading in headings]
        assert len(headings) == len(bodies)
        assert all(re.search(r"\w", body) for body in bodies)
        assert not degenerate(text)


def test_the_reason_begins_the_story_and_what_belongs_together_stands_together():
    told = [
        Exchange("", "", "Rash for 2 days.", OPENING),
        Exchange("", "", "Pollen.", "ALLERGIES"),
        Exchange("", "", "It itches.", ORDER[1]),
        Exchange("", "", "Latex.", "ALLERGIES"),
    ]
    assert written("rash", told) == (
        "CHIEF COMPLAINT\n\nRash.\n\nHISTORY OF PRESENT ILLNESS\n\nRash for 2 days. It itches.\n\n"
        "ALLERGIES\n\nPollen.\nLatex."
    )
