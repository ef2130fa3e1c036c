"""Values of a row's own for fields of its task: taken where they are right, a failed row where they are not."""

import asyncio
from decimal import Decimal

import pytest

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError, DocumentError, SpecError
from corm_batch.tasks.base import Task
from corm_batch.tasks.several import Several


def summarize(**row_values):
    return Task.from_spec({"name": "summarize", "max_new_tokens": 8, "stop": "x", "row_values": row_values})


def of_row(task, **columns):
    return task.of_row(Document("doc", "text", columns))


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("max_new_tokens", 3, 3),
        ("max_new_tokens", "12", 12),
        ("temperature", 0.7, 0.7),
        ("temperature", 1, 1.0),
        ("temperature", Decimal("0.5"), 0.5),
        ("top_p", 0.5, 0.5),
        ("top_k", 40.0, 40),
        ("min_p", "0.1", 0.1),
        ("repetition_penalty", 1.2, 1.2),
        ("presence_penalty", -1, -1.0),
        ("frequency_penalty", 0.3, 0.3),
        ("seed", 9, 9),
        ("stop", "END", ("END",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop_token_ids", [3, 4], (3, 4)),
    ],
)
def test_a_row_s_value_takes_the_place_of_the_task_s(field, value, found):
    task = summarize(**{field: "c"})
    mine = of_row(task, c=value)
    assert getattr(mine, field) == found
    assert type(getattr(mine, field)) is type(found)
    assert {name: one for name, one in mine if name != field} == {name: one for name, one in task if name != field}
    if field != "stop":
        assert getattr(mine.sampling, field) == found
    assert of_row(task, c=None) is of_row(task, c="") is task
    assert task.columns_read == ("c",)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("max_new_tokens", 0, "greater than or equal to 1, got 0"),
        ("max_new_tokens", 1.5, "got 1.5"),
        ("max_new_tokens", True, "a number, got True"),
        ("max_new_tokens", "many", "got 'many'"),
        ("temperature", -1, "got -1"),
        ("temperature", float("nan"), "got nan"),
        ("temperature", float("inf"), "got inf"),
        ("top_p", 0, "got 0"),
        ("top_k", [3], "got [3]"),
        ("presence_penalty", 3, "got 3"),
        ("stop", [""], "got ['']"),
        ("stop_token_ids", [-1], "got [-1]"),
        ("seed", {"a": 1}, "got {'a': 1}"),
    ],
)
def test_a_value_that_the_field_may_not_have_fails_its_row_alone(field, value, problem):
    with pytest.raises(DocumentError) as caught:
        of_row(summarize(**{field: "c"}), c=value)
    assert str(caught.value).startswith(f"column 'c' (task.row_values.{field}): ")
    assert str(caught.value).endswith(problem)


@pytest.mark.parametrize("row_values", [{"max_tokens": "c"}, {"overflow": "c"}, {"seed": ""}, {"seed": 3}, "c"])
def test_fields_that_no_row_may_set_are_refused(row_values):
    with pytest.raises(SpecError, match=r"task\.row_values"):
        Task.from_spec({"name": "summarize", "row_values": row_values})


def test_columns_of_the_task_and_of_its_values_are_read_once_each():
    section = {"name": "question_answer", "question_column": "q", "row_values": {"seed": "s", "top_k": "q"}}
    assert Task.from_spec(section).columns_read == ("q", "s")


def test_each_of_several_tasks_has_its_own(fake_asker):
    sections = {
        "short": {"name": "summarize", "max_new_tokens": 4, "row_values": {"max_new_tokens": "n"}},
        "long": {"name": "summarize", "max_new_tokens": 9},
    }
    task = Several.from_sections(sections)
    assert task.columns_read == ("n",)
    document = Document("doc", "text", {"n": 12})
    mine = task.of_row(document)
    assert (mine.max_new_tokens, task.max_new_tokens) == (12, 9)
    result = asyncio.run(mine.run(document, fake_asker(lambda prompt: "y" * 50)))
    assert {name: len(result.columns[name]) for name in sections} == {"short": 12, "long": 9}


def test_a_value_that_is_wrong_for_one_task_leaves_the_others_their_answers(fake_asker):
    drawn = {"name": "summarize", "row_values": {"temperature": "t"}}
    task = Several.from_sections({"drawn": drawn, "plain": {"name": "summarize"}})
    document = Document("doc", "text", {"t": -1})
    with pytest.raises(AnswerError, match=r"drawn: column 't' \(task\.row_values\.temperature\)") as caught:
        asyncio.run(task.of_row(document).run(document, fake_asker(lambda prompt: "Short.")))
    assert (caught.value.columns["plain"], caught.value.columns["drawn"]) == ("Short.", None)
    assert asyncio.run(task.of_row(Document("doc", "text", {"t": 0})).run(document, fake_asker(lambda _: "s"))).output
    alone = Several.from_sections({"drawn": drawn})
    with pytest.raises(DocumentError, match="greater than or equal to 0, got -1"):
        asyncio.run(alone.of_row(document).run(document, fake_asker(lambda prompt: "Short.")))


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", "inf"), ("repetition_penalty", "1e400"), ("top_k", 10**400)]
)
def test_numbers_that_no_engine_can_take_are_refused(field, value):
    with pytest.raises(DocumentError, match=rf"task\.row_values\.{field}"):
        summarize(**{field: "c"}).of_row(Document("doc", "text", {"c": value}))
