"""Several tasks of one document: one call for all, columns by name, and what one loses is not the others' loss."""

import pytest

from corm_batch.engine.request import SamplingParams
from corm_batch.errors import AnswerError, BrokenEngineError, DocumentError, SpecError
from corm_batch.tasks.base import Prompt, Task, TaskResult
from corm_batch.tasks.several import Several

SCHEMA = {
    "type": "object",
    "properties": {"year": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["year"],
}
SECTIONS = {
    "summary": {"name": "summarize", "instruction": "Sum up."},
    "asked": {"name": "question_answer", "instruction": "{question}", "questions": ["Who?", "Why?"]},
    "facts": {
        "name": "extract", "schema": SCHEMA, "ask": "each", "question_instruction": "{question}",
        "questions": {"year": "Year?", "city": "City?"},
    },
}  # fmt: skip
REPLIES = {"Sum up.": "Short.", "Who?": "Ada", "Why?": "Fun", "Year?": "1852", "City?": "Not stated."}


class Faulty(Task):
    """Asks, then fails as a plug-in with a fault does."""

    async def run(self, document, asker):
        said = await asker.ask(Prompt(document.text, "Who?"), SamplingParams())
        return TaskResult(said.text, {"missing": document.columns["nowhere"]})


def replying(fake_asker, **changes):
    replies = {**REPLIES, **changes}
    return fake_asker(lambda prompt: replies[prompt.instruction])


def test_all_ask_in_one_call_and_each_has_its_columns(fake_asker, answer):
    asker = replying(fake_asker)
    task = Several.from_sections(SECTIONS)
    result = answer(task, asker, "text")
    assert asker.asked_together == [5]
    assert result.columns == {
        "summary": "Short.",
        "asked": '["Ada", "Fun"]',
        "asked_questions": ["Who?", "Why?"],
        "asked_answers": ["Ada", "Fun"],
        "asked_mean_logprobs": [-1.0, -1.0],
        "asked_finish_reasons": ["stop", "stop"],
        "facts": '{"year": "1852", "city": "Not stated."}',
        "facts_year": 1852,
        "facts_city": None,
    }
    assert list(result.columns) == [field.name for field in task.result_fields]
    assert result.output.startswith('summary: Short.\n\nasked: ["Ada", "Fun"]\n\nfacts: {')
    assert (result.finish_reason, result.pieces, result.failed_fields) == ("stop", 5, {})


def test_failed_fields_are_named_by_their_columns(fake_asker, answer):
    asker = replying(fake_asker, **{"Why?": AnswerError("no end"), "City?": DocumentError("refused")})
    result = answer(Several.from_sections(SECTIONS), asker, "text")
    assert result.failed_fields == {"asked_answers[1]": "no end", "facts_city": "refused"}
    assert (result.columns["asked_answers"], result.columns["facts_year"]) == (["Ada", None], 1852)


def test_a_task_that_fails_fails_the_row_and_keeps_what_there_is(fake_asker, answer):
    asker = replying(fake_asker, **{"Year?": "long ago", "City?": "Ulm", "Why?": AnswerError("no end")})
    with pytest.raises(AnswerError, match=r'facts: field year: "long ago" .*; asked_answers\[1\]: no end') as caught:
        answer(Several.from_sections(SECTIONS), asker, "text")
    columns = caught.value.columns
    assert (columns["summary"], columns["asked_answers"]) == ("Short.", ["Ada", None])
    assert (columns["facts_city"], columns["facts_year"]) == ("Ulm", None)
    assert columns["facts"] == '{"year": "long ago", "city": "Ulm"}'
    assert "summary: Short." in caught.value.output


def test_a_task_with_a_fault_costs_the_others_nothing(fake_asker, answer):
    task = Several(tasks={"summary": Task.from_spec(SECTIONS["summary"]), "own": Faulty()})
    with pytest.raises(AnswerError, match="own: KeyError: 'nowhere'") as caught:
        answer(task, replying(fake_asker), "text")
    assert caught.value.columns == {"summary": "Short.", "own": "Ada"}


def test_a_row_without_its_column_fails_that_task(fake_asker, answer):
    sections = {**SECTIONS, "asked": {**SECTIONS["asked"], "questions_column": "q", "questions": None}}
    task = Several.from_sections(sections)
    assert task.source_columns == ("q",)
    with pytest.raises(AnswerError, match="asked: column 'q' holds no list") as caught:
        answer(task, replying(fake_asker), "text", q=None)
    assert (caught.value.columns["facts_year"], caught.value.columns["asked"]) == (1852, None)


def test_where_nothing_can_be_asked_the_document_says_so(fake_asker, answer):
    with pytest.raises(DocumentError, match=r"^too large$") as caught:
        answer(Several.from_sections(SECTIONS), fake_asker(lambda prompt: DocumentError("too large")), "text")
    assert type(caught.value) is DocumentError
    with pytest.raises(BrokenEngineError, match="gone"):
        answer(Several.from_sections(SECTIONS), fake_asker(lambda prompt: BrokenEngineError("gone")), "text")


def test_each_window_is_asked_for_all_tasks_at_once(fake_asker, answer):
    sections = {name: {**section, "max_new_tokens": 11} for name, section in SECTIONS.items()}
    sections["summary"]["reduce_instruction"] = "Join."
    asker = replying(fake_asker, **{"Join.": "All.", "Sum up.": "Part."})
    result = answer(Several.from_sections(sections), asker, "a" * 60 + "b" * 20)
    assert result.columns["summary"] == "Part."
    asker = replying(fake_asker, **{"Join.": "All.", "Sum up.": "Part."})
    asker.context = 68
    result = answer(Several.from_sections(sections), asker, "a" * 60 + "b" * 20)
    assert asker.asked_together == [5, 5, 1]
    assert (result.columns["summary"], result.columns["facts_year"], result.pieces) == ("All.", 1852, 11)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "tasks: expected a name for each task, and its section, got {}"),
        ([SECTIONS["summary"]], "tasks: expected a name for each task"),
        ({"a-b": SECTIONS["summary"]}, "tasks: 'a-b': columns are named so"),
        ({1: SECTIONS["summary"]}, "tasks: 1: columns are named so"),
        ({"a": None}, r"tasks\.a: expected a mapping with a name, got None"),
        ({"a": {"name": "sum"}}, r"tasks\.a\.name: no task is called 'sum'"),
        ({"a": {"name": "summarize", "length": 1}}, r"tasks\.a\.length: unknown key"),
        ({"a": {**SECTIONS["asked"], "rows": "question"}}, r"tasks\.a\.rows: question is for a job of this task alone"),
        ({"facts_year": SECTIONS["summary"], "facts": SECTIONS["facts"]}, "facts_year and facts both have a column"),
    ],
)
def test_sections_that_cannot_be_are_refused(sections, said):
    with pytest.raises(SpecError, match=said):
        Several.from_sections(sections)
