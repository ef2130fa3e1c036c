"""Summaries and titles are those that the authors gave, and the text they are of does not hold them."""

from infra.training.authored import COMMON, LONGEST, SHORTEST, authored, cut, summaries, titles

SAID = "The committee of the harbour built a new quay of stone in the summer, and the ships came back in autumn."
STORY = "The harbour of the town was shallow, and the ships lay off the coast for weeks.\n\n" * 40


def test_a_section_that_ends_in_a_summary_is_the_text_before_it():
    text = (
        f"# Other\n\nNothing.\n\n# The harbour\n\n{STORY}## Section Summary\n\n{SAID}\n\n## Review Questions\n\nWhy?\n"
    )
    (pair,) = summaries(text)
    assert pair.answer == SAID
    assert pair.document == f"# The harbour\n\n{STORY}".strip()


def test_a_paper_that_starts_with_an_abstract_is_the_text_behind_it():
    abstract = SAID.replace(" in the", "\nin the")
    (pair,) = authored([f"Title: Quays\n\nAbstract\n========\n\n{abstract}\n\nMotivation\n----------\n\n{STORY}"])[:1]
    assert (pair.task, pair.answer) == ("abstract", SAID)
    assert pair.document == f"## Motivation\n\n{STORY}".strip()


def test_summaries_in_lists_or_code_and_those_of_short_texts_are_left_out():
    for said, story in (
        (f"* {SAID}", STORY),
        (f"```\n{SAID}\n```", STORY),
        (SAID, STORY[:SHORTEST]),
        ("Short.", STORY),
    ):
        assert not list(summaries(f"# A\n\n{story}## Summary\n\n{said}\n"))


def test_titles_are_told_by_their_sections_and_lose_their_numbers():
    sections = ("CHAPTER IV - THE SHIPS LEAVE", "2.1 Ships and the harbour", "What nobody expected", "Ships")
    found = {pair.answer: pair.document for pair in titles("".join(f"## {name}\n\n{STORY}" for name in sections))}
    assert set(found) == {"The ships leave", "Ships and the harbour"}  # the others: not in the text, and one word
    assert set(found.values()) == {STORY.strip()}


def test_titles_that_many_sections_have_are_left_out():
    text = "## The harbour ships\n\n" + STORY
    assert len(authored([text] * (COMMON - 1))) == COMMON - 1
    assert authored([text] * COMMON) == []


def test_a_long_text_is_cut_behind_a_paragraph():
    short = cut(STORY * 10, LONGEST)
    assert LONGEST - 100 < len(short) <= LONGEST
    assert short.endswith("weeks.")
    assert cut("x" * 50, 20) == "x" * 20
    assert cut(" whole\n", 20) == "whole"
