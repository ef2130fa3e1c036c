"""Forms of plain answers: what is one, and what was cut off."""

import pytest

from corm_batch.errors import AnswerError
from corm_batch.tasks.base import Answer
from corm_batch.tasks.plain_form import PlainForm

FEW, CODE = PlainForm(("yes", "no")), PlainForm((), "[A-Z]{2}[0-9]+")


@pytest.mark.parametrize(
    ("form", "text", "reason", "said"),
    [
        (FEW, "yes", "stop", None),
        (FEW, "Not stated.", "stop", None),
        (FEW, "ye", "stop", "the answer 'ye' is none of choices: yes, no"),
        (FEW, "yes", "length", "was cut off at task.max_new_tokens"),
        (CODE, "AB12", "stop", None),
        (CODE, "Not stated.", "stop", None),
        (CODE, "AB12", "length", "was cut off at task.max_new_tokens"),
        (CODE, "xAB12", "stop", "does not match pattern"),
    ],
)
def test_what_was_cut_off_is_no_answer(form, text, reason, said):
    found = form.checked(Answer(text, reason, -1.0))
    if said is None:
        assert found == Answer(text, reason, -1.0)
    else:
        assert isinstance(found, AnswerError)
        assert said in str(found)
        assert found.output == text


def test_a_grammar_has_all_of_them():
    assert FEW.grammar.text == '["yes", "no", "Not stated."]'
    assert CODE.grammar.compiled()
