"""Every pattern makes sentences of every patient, and what is written follows from what is said."""

import random
import re

import pytest

from infra.training.visits import (
    ADULT,
    ONCE,
    OPENING,
    PATTERNS,
    PRESENT,
    SOCIAL,
    Exchange,
    Patient,
    Pattern,
    exchange,
    fitting,
    labelled,
    sentences,
    values,
    visit,
)


def patient(seed):
    return Patient.drawn(random.Random(seed))


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.asked[0])
def test_every_wording_has_all_its_names(pattern):
    for seed, brought in enumerate((False, True)):
        words = values(random.Random(seed), Patient("female", 40, "Vance", brought))
        for said, told in pattern.answers:
            for wording in (*pattern.asked, *said, *told):
                assert not re.search(r"[{}|]", wording.format_map(words))
                assert re.search(r"[.?]$", wording), wording


def test_a_block_is_a_heading_with_questions_then_answers_with_notes():
    read = Pattern.read("[PLAN] Why?|How so?\nBecause.|I see. -> It is so.\nNo. -> None.|Nothing.")
    assert read == Pattern(
        "PLAN", ["Why?", "How so?"], [(["Because.", "I see."], ["It is so."]), (["No."], ["None.", "Nothing."])]
    )


def test_patients_are_grown_up_unless_someone_brings_them_and_children_are_asked_nothing_social():
    drawn = [patient(seed) for seed in range(300)]
    children = [p for p in drawn if p.age < ADULT]
    assert 0 < len(children) < 60
    assert all(p.brought for p in children)
    assert {p.sex for p in drawn} == {"male", "female"}
    assert {p.heading for p in fitting(children[0])} == {p.heading for p in PATTERNS} - {SOCIAL}
    assert fitting(Patient("male", ADULT, "Vance", False)) == PATTERNS


def test_a_relative_speaks_of_the_patient_and_the_patient_of_themselves():
    pattern = Pattern("", ["{haveyou} been well?"], [(["{ive} had a cold. {I} take{s} tea."], ["{he} takes tea."])])
    for brought, expected in (
        (True, ("Has she been well?", "She's had a cold. She takes tea.", "She takes tea.")),
        (False, ("Have you been well?", "I've had a cold. I take tea.", "She takes tea.")),
    ):
        words = Patient("female", 80, "Vance", brought).words()
        assert exchange(random.Random(0), pattern, words)[:3] == expected


def test_sentences_have_capitals_and_the_article_before_a_vowel():
    assert sentences("a 81-year-old came. a 11-week cough? an MRI, a ultrasound.") == (
        "An 81-year-old came. An 11-week cough? An MRI, an ultrasound."
    )


def test_a_visit_starts_with_its_reason_or_is_of_this_and_that():
    kinds = set()
    for seed in range(100):
        draw = random.Random(seed)
        told = visit(draw, patient(seed), 5)
        headings = [one.heading for one in told]
        assert 3 <= len(told) <= 5
        assert OPENING not in headings[1:]
        assert all(headings.count(heading) <= 1 for heading in ONCE)
        kinds.add((headings[0] == OPENING, set(headings[1:]) == {PRESENT}))
    assert kinds >= {(True, True), (True, False), (False, False)}


def test_one_thing_alone_is_written_as_it_is_and_among_others_with_its_heading():
    alone = {visit(random.Random(seed), patient(seed), 1)[0].told for seed in range(400)}
    assert "None." in alone
    among = {one.told for seed in range(400) for one in visit(random.Random(seed), patient(seed), 5)}
    assert "None." not in among
    assert labelled(Exchange("?", "No.", "None.", "FAMILY HISTORY")).told == "Family history: None."
