import asyncio

import pytest

from corm_batch.data.document import Document
from corm_batch.errors import AnswerError, BrokenEngineError
from corm_batch.pipeline.worker import EngineActor, WorkerSettings
from corm_batch.tasks.base import Prompt, Task
from tests.fakes import scripted


@pytest.fixture
def process(rows):
    """Answers documents in one actor, without Ray; exceptions come back as values."""

    def run(*documents, timeout_s=30.0, patience_s=5.0, task=None):
        task = task or Task.from_spec({"name": "summarize", "max_new_tokens": 4})
        actor = EngineActor(WorkerSettings(scripted(), task, rows, timeout_s, patience_s))

        async def main():
            await actor.load()
            return await asyncio.gather(*map(actor.process, documents), return_exceptions=True)

        return asyncio.run(asyncio.wait_for(main(), 60))

    return run


def test_rows_of_good_and_bad_documents(process):
    good, bad = process(Document("a", "A good document."), Document("b", "@error"))
    assert (good.result["status"], good.result["output"], good.result["pieces"]) == ("ok", "A good document.", 1)
    assert good.memory["num_kv_heads"] == 2
    assert good.memory["actor"]
    assert (bad.result["status"], bad.result["error_type"]) == ("failed", "DocumentError")
    assert bad.result["error_message"] == "scripted refusal"


def test_document_over_its_time_fails_alone(process):
    slow, good = process(Document("a", "@endless"), Document("b", "Good."), timeout_s=0.5)
    assert good.ok
    assert "not answered within its time limit" in slow.result["error_message"]


def test_hanging_engine_is_broken_not_the_document_s_fault(process):
    hanging, innocent = process(Document("a", "@nap"), Document("b", "Good."), timeout_s=0.1, patience_s=0.1)
    assert isinstance(hanging, BrokenEngineError)
    assert isinstance(innocent, BrokenEngineError)


def test_engine_fault_is_raised_for_everybody(process):
    outcomes = process(Document("a", "@break"), Document("b", "Good. " * 20))
    assert all(isinstance(outcome, BrokenEngineError) for outcome in outcomes)


def test_any_exception_of_a_task_is_a_failed_row(process):
    class Faulty(Task):
        """Raises."""

        async def run(self, document, asker):
            return {}["missing"]

    (row,) = process(Document("a", "Text."), task=Faulty())
    assert (row.result["status"], row.result["error_type"]) == ("failed", "KeyError")


def test_memory_of_several_prompts_is_summed(process):
    text = "\n\n".join(f"This is paragraph number {index} of the document." for index in range(60))
    (row,) = process(Document("a", text))
    assert row.result["pieces"] > 2
    assert row.memory["prompt_tokens"] == row.result["prompt_tokens"] > 512
    assert row.memory["kept_ratio"] == pytest.approx(0.25)


def test_what_was_answered_before_a_failure_is_in_the_row(process):
    class Picky(Task):
        """Asks twice, and likes neither answer."""

        async def run(self, document, asker):
            await asker.ask(Prompt(document.text, "First?"), self.sampling)
            asker.truncate(document.text, lambda text: Prompt(text, "Cut."), 400)
            await asker.ask(Prompt("Other.", "Second?"), self.sampling)
            if document.doc_id == "a":
                raise AnswerError("no good", output="the first")
            raise ValueError("no good")

    mine, all_of_it = process(Document("a", "One two. " * 99), Document("b", "One."), task=Picky(max_new_tokens=3))
    assert (mine.result["error_type"], mine.result["output"]) == ("AnswerError", "the first")
    assert (mine.result["truncated"], all_of_it.result["truncated"]) == (True, False)
    assert (all_of_it.result["status"], all_of_it.result["error_type"]) == ("failed", "ValueError")
    assert all_of_it.result["output"].startswith("One")
    assert "\n\nOther" in all_of_it.result["output"]
    assert (all_of_it.result["finish_reason"], all_of_it.result["pieces"]) == ("length", 2)
    assert all_of_it.memory["prompt_tokens"] > 0
