import pytest

from corm_batch.tasks.base import Answer
from corm_batch.tasks.questions import ANSWER_FROM_DOCUMENT, NO_ANSWER, by_certainty, says_something


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "...",
        NO_ANSWER,
        "not stated",
        " NOT STATED. ",
        '"Not stated."',
        "**Not stated.** It is a poem.",
        "Not stated!",
        "Not stated in the document.",
        "Not stated explicitly in this text",
    ],
)
def test_no_answer_is_told_from_an_answer(text):
    assert not says_something(Answer(text, "stop", 0.0))
    for answer in (
        "Not stated, but probably 5.",
        "Not stated in the document, but 5.",
        "Not stated in 1871: 5",
        "Nothing",
        "*",
    ):
        assert says_something(Answer(answer, "stop", 0.0)) == (answer != "*")


def test_certain_answers_win_over_certain_silence():
    answers = [Answer("maybe", "stop", -2.0), Answer(NO_ANSWER, "stop", -0.01), Answer("surely", "stop", -0.5)]
    assert [answer.text for answer in by_certainty(answers)] == ["surely", "maybe", NO_ANSWER]


def test_default_instruction_agrees_with_the_check():
    assert NO_ANSWER in ANSWER_FROM_DOCUMENT
    assert ANSWER_FROM_DOCUMENT.replace("{question}", "why?").endswith("Question: why?")
