"""Suites by name, and where a question stands."""

import pytest

from corm_batch.evaluation.base import Case, Suite
from corm_batch.tasks.base import Prompt


def test_suites_are_found_by_name_and_their_fields_are_checked():
    assert list(Suite.registered()) == [
        *("key_value", "kvpress", "likelihood", "lines", "lists", "longbench", "needles", "passages", "perplexity"),
        *("ruler", "several_documents", "squad", "summaries", "table"),
    ]
    with pytest.raises(ValueError, match=r"suite\.questions: Field required"):
        Suite.from_spec({"name": "squad"})
    with pytest.raises(ValueError, match="no suite is called 'needle'; there are:\n  key_value: The value of one"):
        Suite.from_spec({"name": "needle"})


def test_a_question_stands_after_the_document_or_before_it_and_a_suite_says_where():
    case = Case("g", "t", "Noon.", "When?", ("noon",), 4)
    after, before = (Suite.from_spec({"name": "needles", "position": position}) for position in ("after", "before"))
    assert (after.prompt(case), after.position_text(case)) == (Prompt("Noon.", "When?"), "question after the document")
    assert before.prompt(case) == Prompt("When?\n\nNoon.", "")
    assert before.position_text(case) == "question before the document"
    within = Case("g", "t", "Noon. When?", "", ("noon",), 4)
    assert before.prompt(within) == Prompt("Noon. When?", "")
    assert before.position_text(within) == "question within the document"
    hidden = Suite.from_spec({"name": "needles", "position": "hidden"})
    assert (hidden.prompt(case), hidden.position_text(within)) == (after.prompt(case), before.position_text(within))
    assert hidden.position_text(case) == "question hidden until the document was compressed"
    with pytest.raises(
        ValueError, match=r"suite\.position: Input should be 'after', 'before' or 'hidden', got 'under'"
    ):
        Suite.from_spec({"name": "needles", "position": "under"})
