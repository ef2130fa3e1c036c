"""How often fields and questions have an answer, over rows of several tasks, of lists and of one each."""

from dataclasses import replace

import pytest

from corm_batch.data.document import Document
from corm_batch.data.schema import result_schema
from corm_batch.engine.figures import MemoryStats
from corm_batch.errors import AnswerError
from corm_batch.output.transcript import Transcript
from corm_batch.output.writer import PartWriter
from corm_batch.report.fields import MOST_QUESTIONS, FieldFigures, field_figures
from corm_batch.spec import OutputSection
from corm_batch.tasks.base import Task, TaskResult
from corm_batch.tasks.question_answer import QuestionAnswer
from corm_batch.tasks.several import Several
from tests.output.test_writer import Freehold
from tests.tasks.test_several import SECTIONS


@pytest.fixture
def commit(rows, tmp_path):
    """Commits one part of a task's documents, each a result, or an error that kept columns or is the whole row."""

    def write(task, *outcomes, run_id="run-1"):
        schema = result_schema(task.result_fields, {})
        builder = replace(rows, run_id=run_id, result_schema=schema, exploded=task.exploded)
        writer = PartWriter(OutputSection(uri=str(tmp_path)), builder, Freehold())
        for number, outcome in enumerate(outcomes):
            document = Document(f"doc {number}", "text")
            if isinstance(outcome, TaskResult):
                writer.add(builder.answered(document, outcome, MemoryStats()))
            elif isinstance(outcome, AnswerError):
                writer.add(builder.unusable(document, outcome, MemoryStats(), Transcript(["something"])))
            else:
                writer.add(builder.failed(document, "DocumentError", outcome))
        writer.commit()
        return {field.name: field for field in field_figures(str(tmp_path))}

    return write


def columns(answers, year):
    return {
        "summary": "s", "asked": "a", "asked_questions": ["Who?", "Why?"], "asked_answers": answers,
        "facts": "f", "facts_year": year, "facts_city": None,
    }  # fmt: skip


def test_each_field_and_question_of_several_tasks(commit):
    failed = {"asked_answers[1]": "no end", "facts_city": "3 breaks type"}
    found = commit(
        Several.from_sections(SECTIONS),
        TaskResult("o", columns(["Ada", "**Not stated.** It is a poem."], 5)),
        TaskResult("o", columns(["Ada", None], 6), failed_fields=failed),
        AnswerError("facts: field year: 'x' is no number", columns=columns(["Eve", " not stated in the text. "], None)),
        "no text",
    )
    assert list(found) == ["summary", "asked: Who?", "asked: Why?", "facts_year", "facts_city"]
    assert found["summary"] == FieldFigures("summary", 4, 3, 1, "no text")
    assert found["asked: Who?"] == FieldFigures("asked: Who?", 3, 3, 0, "")
    assert found["asked: Why?"] == FieldFigures("asked: Why?", 3, 0, 1, "no end")
    assert (found["facts_year"].answered, found["facts_year"].failed) == (2, 2)
    assert (found["facts_city"].answered, found["facts_city"].failed, found["facts_city"].not_stated) == (0, 2, 2)
    assert found["facts_year"].fill_rate == 0.5


@pytest.mark.parametrize("each", ["document", "question"])
def test_questions_of_lists_and_of_rows_of_their_own_say_the_same(each, commit):
    def result(answers):
        failed = {f"answers[{place}]": "no end" for place, one in enumerate(answers) if one is None}
        lists = {"mean_logprobs": [-1.0, None], "finish_reasons": ["stop", None]}
        return TaskResult("o", {"questions": ["Who?", "Why?"], "answers": answers, **lists}, failed_fields=failed)

    task = QuestionAnswer(questions=["Who?", "Why?"], rows=each)
    found = commit(task, result(["Ada", None]), result(["Eve", "NOT STATED."]), result(["Bo", "Fun"]), "late")
    assert found == {"Who?": FieldFigures("Who?", 3, 3, 0, ""), "Why?": FieldFigures("Why?", 3, 1, 1, "no end")}


def test_very_many_questions_are_one_line(commit):
    count = MOST_QUESTIONS + 1
    lists = {"questions": [f"Q{number}" for number in range(count)], "answers": ["yes"] * count}
    assert commit(QuestionAnswer(questions_column="q"), TaskResult("o", lists)) == {
        "41 different questions": FieldFigures("41 different questions", count, count, 0, "")
    }


def test_one_question_a_row_and_a_summary_have_no_fields(commit):
    single = {"question": "Who?", "mean_logprob": -1.0}
    assert commit(QuestionAnswer(question_column="q"), TaskResult("Ada", single)) == {}
    assert commit(Task.from_spec({"name": "summarize"}), TaskResult("Short."), run_id="run-2") == {}


def test_a_list_at_the_root_is_answered_where_it_holds_something(commit):
    task = Task.from_spec({"name": "extract", "schema": {"type": "array", "items": {"type": "integer"}}})
    found = commit(task, *(TaskResult("o", {"items": items}) for items in ([1], [], None)))
    assert found["items"] == FieldFigures("items", 3, 1, 0, "")


def test_what_one_task_says_of_itself_is_said_of_no_other(commit):
    schema = {"type": "object", "properties": {"due": {"type": "string"}}}
    extract = {"name": "extract", "schema": schema}
    sections = {
        "inv": extract,
        "each": {**extract, "ask": "each"},
        "kind": {"name": "question_answer", "question": "?"},
    }
    kept = {"inv": "{}", "inv_due": None, "each": "x", "each_due": None, "kind": "Not stated.", "kind_question": "?"}
    found = commit(
        Several.from_sections(sections),
        AnswerError("each: field due: 'x' is no date; inv_due_quote: none", columns=kept),
        AnswerError("each: field due: 'x' is no date; kind: no end", columns={**kept, "inv_due": "2024", "kind": "no"}),
    )
    said = {name: (one.answered, one.not_stated, one.failed) for name, one in found.items()}
    assert (said["inv_due"], said["each_due"], said["kind: ?"]) == ((1, 1, 0), (0, 0, 2), (0, 1, 1))
    assert found["kind: ?"].reason == "kind: no end"
    assert found["each_due"].reason.startswith("each: field due: 'x' is no date")
