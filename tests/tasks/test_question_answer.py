import json

import pyarrow as pa
import pytest

from corm_batch.data.exploded import exploded
from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks.base import Answer, AnswerToken, Task
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


def several(**fields):
    return Task.from_spec({"name": "question_answer", "instruction": "{question}", **fields})


def test_several_questions_are_asked_together_and_answered_in_a_row_of_lists(fake_asker, answer):
    replies = {
        "Who?": ("Ada", -0.5),
        "When?": "Not stated.",
        "Where?": AnswerError("no end"),
        "Why?": ("Fun", -2),
    }
    asker = fake_asker(lambda prompt: replies[prompt.instruction])
    result = answer(several(questions=list(replies), max_new_tokens=11), asker, "text")
    assert asker.asked_together == [4]
    assert result.columns == {
        "questions": list(replies),
        "answers": ["Ada", "Not stated.", None, "Fun"],
        "mean_logprobs": [-0.5, -1.0, None, -2],
        "finish_reasons": ["stop", "length", None, "stop"],
    }
    assert json.loads(result.output) == result.columns["answers"]
    assert result.failed_fields == {"answers[2]": "no end"}
    assert (result.finish_reason, result.pieces) == ("length", 4)


def test_a_row_of_several_questions_that_are_none_answers_the_others(fake_asker, answer):
    task = several(questions_column="q")
    assert task.source_columns == ("q",)
    asker = fake_asker(lambda prompt: prompt.instruction.upper())
    result = answer(task, asker, "text", q=["a", None, "b", " ", "a", 5])
    assert result.columns["answers"] == ["A", None, "B", None, "A", None]
    assert result.columns["questions"] == ["a", None, "b", None, "a", None]
    assert result.failed_fields["answers[5]"] == "column 'q' holds no question but 5 at place 5"
    assert list(result.failed_fields) == ["answers[1]", "answers[3]", "answers[5]"]
    assert asker.asked_together == [2]


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        (None, "column 'q' holds no list of questions but None"),
        ([], r"column 'q' holds no list of questions but \[\]"),
        ("Who?", r"no list of questions but 'Who\?' \(task.question_column takes one question a row\)"),
        ({"a": "Who?"}, "no list of questions but {'a': 'Who"),
        ([None, ""], "column 'q' holds no question but None at place 0"),
    ],
)
def test_row_without_several_questions_fails_alone(questions, said, fake_asker, answer):
    with pytest.raises(DocumentError, match=said):
        answer(several(questions_column="q"), fake_asker(lambda prompt: "yes"), "text", q=questions)


def test_several_of_which_none_is_answered_say_all_reasons_and_keep_the_questions(fake_asker, answer):
    asker = fake_asker(lambda prompt: AnswerError(f"no end of {prompt.instruction}"))
    with pytest.raises(AnswerError, match=r"answers\[0\]: no end of a; answers\[1\]: no end of b") as caught:
        answer(several(questions=["a", "b"]), asker, "text")
    assert caught.value.columns["questions"] == ["a", "b"]
    with pytest.raises(DocumentError, match="refused") as refused:
        answer(several(questions=["a", "b"]), fake_asker(lambda prompt: DocumentError("refused")), "text")
    assert type(refused.value) is DocumentError


def test_each_window_is_asked_all_questions_together(fake_asker, answer):
    replies = {"aWhy": "Not stated.", "bWhy": ("fact", -9.0), "aWhere": ("1", -1.0), "bWhere": ("2", -2.0)}
    asker = fake_asker(lambda prompt: replies[prompt.text[0] + prompt.instruction], context=46)
    result = answer(several(questions=["Why", "Where"], max_new_tokens=11), asker, "a" * 30 + "b" * 20)
    assert result.columns["answers"] == ["fact", "1"]
    assert asker.asked_together == [2, 2]
    assert result.pieces == 4


@pytest.mark.parametrize("overflow", ["map_reduce", "error"])
def test_a_question_that_leaves_no_room_fails_alone(overflow, fake_asker, answer):
    asker = fake_asker(lambda prompt: prompt.instruction.upper(), context=47)
    task = several(questions=["a", "b" * 40, "c"], max_new_tokens=9, overflow=overflow)
    result = answer(task, asker, "text")
    assert (result.columns["answers"][::2], list(result.failed_fields)) == (["A", "C"], ["answers[1]"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"questions": []}, r"task\.questions: .*at least 1 item"),
        ({"questions": ["a", " "]}, r"task\.questions: entry 1 is blank"),
        ({"questions": ["a", "b", "a"]}, r"task\.questions: entry 2 is entry 0 again: 'a'"),
        ({"questions": ["a", 5]}, r"task\.questions\.1: .*string"),
        ({"questions": {"who": "Who?"}}, r"task\.questions: .*tuple"),
        ({"question": "a", "rows": "question"}, "rows: question is for questions or questions_column"),
    ],
)
def test_questions_that_are_none_are_refused(fields, said):
    with pytest.raises(SpecError, match=said):
        several(**fields)


def test_one_row_a_question_has_the_columns_of_one():
    assert several(questions="a").result_fields[0].name == "questions"
    task = several(questions_column="q", rows="question")
    assert [field.name for field in task.result_fields] == ["question", "mean_logprob"]
    assert task.exploded["answers"] == "output"


def test_tokens_of_the_answers_that_stand_are_kept(fake_asker, answer):
    def reply(prompt):
        if prompt.instruction == "Where?":
            return AnswerError("no end")
        text = f"{prompt.instruction} {prompt.text[0]}"
        tokens = (AnswerToken(prompt.text[0], 5, b"x", -1.0),)
        return Answer(text, "stop", -1.0 if prompt.text[0] == "b" else -2.0, tokens)

    def tokens_of(task, number=None):
        asker = fake_asker(reply, context=task.max_new_tokens + 26)
        result = answer(task, asker, "a" * 20 + "b" * 20)
        (row, *_) = rows = exploded(dict(result.columns) | {"status": "ok"}, task.exploded)
        schema = pa.schema(task.result_fields)
        pa.Table.from_pylist([{name: one.get(name) for name in schema.names} for one in rows], schema=schema)
        return (row if number is None else rows[number])["logprobs"]

    assert [[one["token"] for one in answer] for answer in tokens_of(several(question="Who?", logprobs=0))] == [["b"]]
    many = {"questions": ["Who?", "Where?"], "logprobs": 0}
    found, missing = tokens_of(several(**many))
    assert ([one["token"] for one in found], missing) == (["b"], None)
    assert [one["token"] for one in tokens_of(several(**many, rows="question"), 0)] == ["b"]
    assert tokens_of(several(**many, rows="question"), 1) is None


@pytest.mark.parametrize("task", [{"name": "question_answer", "question": "Who?"}, {"name": "extract", "schema": {}}])
def test_several_answers_are_another_task_s(task):
    with pytest.raises(SpecError, match=r"(?m)^task\.n: .*the task prompt gives several"):
        Task.from_spec({**task, "n": 3})


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


@pytest.mark.parametrize("fields", [{}, {"question": "a", "question_column": "b"}, {"question": "a", "questions": "b"}])
def test_exactly_one_question_is_needed(fields):
    with pytest.raises(SpecError, match="task: exactly one of question, question_column, questions and q"):
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


def test_answers_are_held_to_choices_or_a_pattern(fake_asker, answer):
    asker = fake_asker(lambda prompt: ("yes", -2.0) if "a" in prompt.text else ("Not stated.", -0.1), context=190)
    spec = {"name": "question_answer", "question": "?", "instruction": "{question}", "max_new_tokens": 20}
    task = Task.from_spec({**spec, "choices": ["yes", "no"]})
    assert answer(task, asker, "b" * 100 + "a" * 100).output == "yes"
    assert {one.text for one in asker.grammars} == {'["yes", "no", "Not stated."]'}
    task = Task.from_spec({"name": "question_answer", "question": "?", "pattern": "[0-9]{4}"})
    asker = fake_asker(lambda prompt: "1999!")
    with pytest.raises(AnswerError, match="the answer '1999!' does not match pattern") as caught:
        answer(task, asker, "text")
    assert caught.value.columns == {"question": "?"}
    assert asker.grammars[0].kind == "regex"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"choices": ["a"], "pattern": "a"}, "one of them"),
        ({"choices": ["a", "b", "a"]}, "entry 2, 'a', is blank, has blanks around it or is there twice"),
        ({"choices": [" a"]}, "entry 0"),
        ({"question": "  "}, "question: .*is blank"),
        ({"pattern": "a)|(b"}, "pattern: no grammar can be made"),
        ({"pattern": "a("}, "pattern: no grammar can be made"),
        ({"pattern": "a(?!b)"}, "look-ahead"),
    ],
)
def test_forms_that_are_none_are_refused(fields, said):
    with pytest.raises(SpecError, match=said):
        Task.from_spec({"name": "question_answer", "question": "?", **fields})
