import pytest

from corm_batch.errors import AnswerError, SpecError
from corm_batch.tasks.base import Answer, AnswerToken, Task
from corm_batch.tasks.summarize import Summarize


def test_short_document_is_one_prompt(fake_asker, answer):
    asker = fake_asker(lambda prompt: f"summary of {prompt.text}")
    result = answer(Summarize(instruction="Sum up."), asker, "the document")
    assert (result.output, result.pieces, result.finish_reason) == ("summary of the document", 1, "stop")
    assert asker.prompts[0].instruction == "Sum up."


def test_windows_are_summarised_then_their_summaries_until_one_prompt_holds_them(fake_asker, answer):
    task = Summarize(instruction="map", reduce_instruction="cut", max_new_tokens=10)
    asker = fake_asker(lambda prompt: f"<{prompt.text[:4]}>", context=43)  # windows of 30 characters
    text = "".join(f"{number:04d}" + "." * 26 for number in range(16))
    result = answer(task, asker, text)
    levels = [[p.text for p in asker.prompts if p.instruction == kind] for kind in ("map", "cut")]
    assert len(levels[0]) == 16
    assert [window[:4] for window in levels[0]] == [f"{number:04d}" for number in range(16)]
    assert levels[1][0].startswith("<0000>\n\n<0001>")  # 16 summaries of 6 and the gaps: 126 characters, 5 windows
    assert len(levels[1]) == 5 + 2 + 1
    assert result.pieces == len(asker.prompts) == 24
    assert all(len(prompt.text) <= 30 for prompt in asker.prompts)


def test_summaries_that_do_not_shrink_end_with_a_reason(fake_asker, answer):
    asker = fake_asker(lambda prompt: "x" * 30, context=83)
    with pytest.raises(AnswerError, match=r"3 windows, 60 characters.*max_new_tokens"):
        answer(Summarize(instruction="map", reduce_instruction="map", max_new_tokens=60), asker, "y" * 60)


def test_windows_without_any_summary_end_with_a_reason(fake_asker, answer):
    with pytest.raises(AnswerError, match="summarised in 0 characters"):
        answer(Summarize(instruction="map", max_new_tokens=10), fake_asker(lambda prompt: " ", context=50), "y" * 60)


def test_truncate_asks_about_the_beginning(fake_asker, answer):
    asker = fake_asker(lambda prompt: "short", context=50)
    result = answer(Summarize(instruction="map", overflow="truncate", max_new_tokens=10), asker, "y" * 60)
    assert [len(prompt.text) for prompt in asker.prompts] == [37]
    assert result.pieces == 1


def test_several_summaries_are_drawn_where_the_text_is_one_piece(fake_asker, answer):
    drafts = iter(["one", "two", "three"])
    task = Task.from_spec({"name": "summarize", "n": 3, "temperature": 1, "overflow": "truncate", "max_new_tokens": 10})
    result = answer(task, fake_asker(lambda prompt: next(drafts), context=300), "y" * 600)
    assert (result.columns["answers"], result.pieces) == (["one", "two", "three"], 3)
    with pytest.raises(SpecError, match="n: several answers of a window do not become one: overflow: truncate or err"):
        Task.from_spec({"name": "summarize", "n": 3, "temperature": 1})


def test_tokens_are_those_of_the_last_summary_and_a_window_that_was_cut_is_told(fake_asker, answer):
    tokens = (AnswerToken("s", 5, b"s", -1.5),)

    def reply(prompt):
        return Answer("s", "length" if prompt.text.startswith("0") else "stop", -1.5, tokens)

    task = Task.from_spec({"name": "summarize", "instruction": "map", "reduce_instruction": "cut", "logprobs": 0})
    asker = fake_asker(reply, context=task.max_new_tokens + 33)
    result = answer(task, asker, "0" * 30 + "1" * 30)
    assert [len(one) for one in result.columns["logprobs"]] == [1]
    assert (result.finish_reason, result.pieces) == ("length", 3)


def test_empty_instruction_is_refused():
    with pytest.raises(SpecError, match=r"task\.instruction"):
        Task.from_spec({"name": "summarize", "instruction": ""})
