import pytest

from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks.base import Task
from corm_batch.tasks.question_answer import QuestionAnswer


def test_one_question_for_all(fake_asker, answer):
    asker = fake_asker(lambda prompt: ("42", -0.25))
    result = answer(QuestionAnswer(question="How many?", instruction="{question}"), asker, "text")
    assert (asker.prompts[0].text, asker.prompts[0].instruction) == ("text", "How many?")
    assert result.output == "42"
    assert result.columns == {"question": "How many?", "mean_logprob": -0.25}


def test_each_rows_own_question(fake_asker, answer):
    task = QuestionAnswer(question_column="q")
    assert task.source_columns == ("q",)
    asker = fake_asker(lambda prompt: "yes")
    result = answer(task, asker, "text", q="Is {this} {question}?")
    assert result.columns["question"] == "Is {this} {question}?"
    assert asker.prompts[0].instruction.endswith("Question: Is {this} {question}?")


@pytest.mark.parametrize("question", [None, "", "  ", 5])
def test_row_without_a_question_fails_alone(question, fake_asker, answer):
    with pytest.raises(DocumentError, match="column 'q' holds no question but"):
        answer(QuestionAnswer(question_column="q"), fake_asker(lambda prompt: "yes"), "text", q=question)


def test_every_window_is_asked_and_the_most_certain_answer_wins(fake_asker, answer):
    def reply(prompt):
        return {"a": ("a guess", -3.0), "b": ("the fact", -0.1), "c": ("Not stated.", -0.01)}[prompt.text[0]]

    asker = fake_asker(reply, context=43)
    task = QuestionAnswer(question="Why", instruction="{question}", max_new_tokens=10)
    result = answer(task, asker, "a" * 30 + "b" * 30 + "c" * 5)
    assert (result.output, result.columns["mean_logprob"], result.pieces) == ("the fact", -0.1, 3)


def test_no_window_knows(fake_asker, answer):
    asker = fake_asker(lambda prompt: "Not stated.", context=46)
    task = QuestionAnswer(question="Why", instruction="{question}", max_new_tokens=13)
    assert answer(task, asker, "a" * 70).output == "Not stated."


@pytest.mark.parametrize("fields", [{}, {"question": "a", "question_column": "b"}])
def test_exactly_one_question_is_needed(fields):
    with pytest.raises(SpecError, match="task: exactly one of question and question_column"):
        Task.from_spec({"name": "question_answer", **fields})


def test_instruction_must_ask():
    with pytest.raises(SpecError, match=r"task\.instruction: must hold {question}.*, got 'Answer!'"):
        Task.from_spec({"name": "question_answer", "question": "Why?", "instruction": "Answer!"})


def test_a_window_that_was_not_answered_may_hold_the_answer(fake_asker, answer):
    task = Task.from_spec(
        {"name": "question_answer", "question": "?", "instruction": "{question}", "max_new_tokens": 19}
    )
    replies = {"a": ("Blue.", -3.0), "b": AnswerError("no end"), "c": ("Not stated.", -0.1)}
    asker = fake_asker(lambda prompt: replies[prompt.text[0]], context=40)
    result = answer(task, asker, "a" * 20 + "b" * 20)
    assert (result.output, result.pieces) == ("Blue.", 2)
    with pytest.raises(AnswerError, match="no end"):
        answer(task, asker, "c" * 20 + "b" * 20)
    with pytest.raises(AnswerError, match="no end"):
        answer(task, asker, "b" * 20)
