import asyncio

import pytest

from corm_batch.errors import AnswerError, DocumentError
from corm_batch.tasks.base import Prompt
from corm_batch.tasks.overflow import ask_all, pieces
from corm_batch.tasks.summarize import Summarize


def prompt(piece):
    return Prompt(piece, "ask")


@pytest.mark.parametrize("overflow", ["map_reduce", "truncate", "error"])
def test_what_fits_is_asked_whole(overflow, fake_asker):
    task = Summarize(overflow=overflow, max_new_tokens=7)
    asker = fake_asker(lambda prompt: "", context=20)
    assert pieces(task, asker, "0123456789", prompt) == ["0123456789"]


def test_what_does_not_fit_is_cut_as_the_spec_says(fake_asker):
    asker = fake_asker(lambda prompt: "", context=20)
    text = "0123456789a"
    assert pieces(Summarize(overflow="truncate", max_new_tokens=7), asker, text, prompt) == ["0123456789"]
    assert pieces(Summarize(overflow="map_reduce", max_new_tokens=7), asker, text, prompt) == ["0123456789", "a"]
    with pytest.raises(DocumentError, match=r"11 characters.*7 new tokens.*task\.overflow is 'error'"):
        pieces(Summarize(overflow="error", max_new_tokens=7), asker, text, prompt)


def test_all_are_asked_at_once_and_answered_in_order(fake_asker):
    asker = fake_asker(lambda prompt: prompt.text.upper())
    answers = asyncio.run(ask_all(Summarize(), asker, [prompt(letter) for letter in "abc"]))
    assert [answer.text for answer in answers] == ["A", "B", "C"]
    assert asker.most_in_flight == 3


@pytest.mark.parametrize("error", [AnswerError("no end"), DocumentError("refused")])
def test_the_first_failure_is_raised_as_it_is_once_all_are_asked(error, fake_asker):
    asker = fake_asker(lambda prompt: error if prompt.text == "a" else "fine")
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(ask_all(Summarize(), asker, [prompt(letter) for letter in "abc"]))
    assert asker.finished == 2


def test_those_about_one_text_are_asked_together_also_where_a_template_has_put_it_into_the_instruction(fake_asker):
    texts = ["a" * 300, "b" * 300]
    rendered = [Prompt("", f"Read: {text}\n\n{question}") for text in texts for question in "?!"]
    asker = fake_asker(lambda prompt: prompt.instruction[-1])
    answers = asyncio.run(ask_all(Summarize(), asker, [*rendered, *(Prompt(text, "sum") for text in texts)]))
    assert [answer.text for answer in answers] == [*"?!?!", "m", "m"]
    assert sorted(asker.asked_together) == [1, 1, 2, 2]
