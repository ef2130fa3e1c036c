import pytest

from corm_batch.errors import AnswerError, SpecError
from corm_batch.tasks.base import Task
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


def test_empty_instruction_is_refused():
    with pytest.raises(SpecError, match=r"task\.instruction"):
        Task.from_spec({"name": "summarize", "instruction": ""})
