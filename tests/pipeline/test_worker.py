import asyncio
import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from openai.types.chat import ChatCompletion

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.selection import is_chosen
from corm_batch.data.document import Document
from corm_batch.data.formats.openai_batch import OpenAIBatch
from corm_batch.data.schema import result_schema
from corm_batch.data.sources.base import Source
from corm_batch.engine.open import Engine
from corm_batch.errors import AnswerError, BrokenEngineError
from corm_batch.pipeline.worker import EngineActor, Model, WorkerSettings
from corm_batch.tasks.base import Prompt, Task, TaskResult
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import scripted


@pytest.fixture
def process(rows):
    """Answers documents in one actor, without Ray; exceptions come back as values."""

    def run(*documents, timeout_s=30.0, patience_s=5.0, task=None, verify=None, suspect=False, fallback=False):
        task = task or Task.from_spec({"name": "summarize", "max_new_tokens": 4})
        verify = VerifyConfig(**verify) if verify else None
        actor = EngineActor(WorkerSettings(scripted(), task, rows, timeout_s, patience_s, verify, fallback))

        async def main():
            await actor.load()
            return await asyncio.gather(
                *(actor.process(document, suspect) for document in documents), return_exceptions=True
            )

        return asyncio.run(asyncio.wait_for(main(), 60))

    return run


def test_rows_of_good_and_bad_documents(process):
    good, bad = process(Document("a", "A good document."), Document("b", "@error"))
    assert (good.result["status"], good.result["output"], good.result["pieces"]) == ("ok", "A good document.", 1)
    assert good.memory["num_kv_heads"] == 2
    assert good.memory["actor"]
    assert (bad.result["status"], bad.result["error_type"]) == ("failed", "DocumentError")
    assert bad.result["error_message"] == "scripted refusal"


def test_a_row_s_own_values_hold_for_it_alone(process):
    task = Task.from_spec({"name": "summarize", "max_new_tokens": 9, "row_values": {"max_new_tokens": "n"}})
    text = "A good document of words."
    documents = [Document(name, text, {"n": value}) for name, value in (("a", 2), ("b", None), ("c", 0))]
    short, whole, wrong = process(*documents, task=task)
    assert (short.result["output_tokens"], short.result["finish_reason"]) == (2, "length")
    assert whole.result["output_tokens"] > 2
    assert wrong.result["error_message"].startswith("column 'n' (task.row_values.max_new_tokens): ")


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
            asker.truncate(document.text, [lambda text: Prompt(text, "Cut.")], 400)
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


GOOD, LOSSY = Document("good", "A good document."), Document("lossy", "Read @lossy by a cache.")
FLAG, RERUN = {"share": 1, "min_gap": 0.1}, {"share": 1, "min_gap": 0.1, "on_difference": "rerun"}


def test_a_difference_is_flagged_with_where_it_is_and_the_answer_stays(process):
    without = process(GOOD, LOSSY)
    good, lossy = process(GOOD, LOSSY, verify=FLAG)
    assert [row.result["output"] for row in (good, lossy)] == [row.result["output"] for row in without]
    for table in (good.result, good.memory):
        assert (table["verified"], table["agreement"], table["first_difference"]) == (True, 1.0, None)
        assert table["logprob_full"] == good.result["logprob_kept"] == -0.5
    assert (lossy.result["agreement"], lossy.result["first_difference"], lossy.result["largest_gap"]) == (0.75, 1, 2.0)
    assert (lossy.result["logprob_full"], lossy.result["rerun"], lossy.result["verify_share"]) == (-1.0, False, 1.0)
    assert lossy.memory["verify_s"] == 0.25
    assert lossy.memory["prefill_s"] == lossy.result["prefill_s"] == 0.25  # of the answer alone
    assert {without[0].result.get(name) for name in ("verified", "agreement", "verify_share")} == {None}


def test_gaps_up_to_the_least_one_are_ties(process):
    (row,) = process(LOSSY, verify={"share": 1, "min_gap": 2.0})
    assert (row.result["agreement"], row.result["first_difference"], row.result["largest_gap"]) == (1.0, None, 2.0)


def test_a_difference_is_answered_again_as_an_uncompressed_cache_would(process):
    good, lossy = process(GOOD, LOSSY, verify=RERUN)
    whole = process(Document("lossy", "Read @lossy by a cache."))[0]
    assert (good.result["rerun"], good.memory["output_tokens"]) == (False, 4)
    assert lossy.result["output"].startswith("Read @los")
    assert lossy.result["output"] != whole.result["output"]
    assert (lossy.result["rerun"], lossy.memory["rerun"], lossy.result["first_difference"]) == (True, True, 1)
    assert (lossy.memory["output_tokens"], lossy.result["pieces"]) == (8, 1)  # both answers were paid for
    assert lossy.memory["prefill_s"] == 0.5
    again = process(lossy_again := Document("d", LOSSY.text), verify=RERUN)[0]
    assert (again.result["output"], lossy_again.doc_id) == (lossy.result["output"], "d")


def test_documents_that_are_not_chosen_are_as_ever(process):
    names = [f"d{number}" for number in range(40)]
    rows = process(*(Document(name, LOSSY.text) for name in names), verify={**RERUN, "share": 0.2})
    assert [row.result["verified"] for row in rows] == [is_chosen(name, 0.2) for name in names]
    assert 0 < sum(row.result["verified"] for row in rows) < 40
    unchosen = next(row for row in rows if not row.result["verified"])
    assert {unchosen.result[name] for name in ("agreement", "logprob_full", "rerun", "verify_error")} == {None}


@pytest.mark.parametrize("verify", [FLAG, RERUN])
def test_what_cannot_be_verified_keeps_its_answer_and_says_why(process, verify):
    (row,) = process(Document("a", "@score-error @lossy text."), verify=verify)
    assert (row.ok, row.result["verified"], row.result["rerun"]) == (True, None, None)
    assert row.result["output"].startswith("@")
    assert row.result["verify_error"] == "DocumentError: scripted: no room to score"


def test_a_suspect_is_answered_and_not_verified(process):
    (row,) = process(LOSSY, verify=RERUN, suspect=True)
    assert (row.ok, row.result["verified"], row.result["rerun"]) == (True, None, None)
    assert "a replica was lost" in row.result["verify_error"]


def test_verification_has_a_time_limit_and_an_engine_that_breaks_by_it_costs_no_answer(process, monkeypatch):
    (slow,) = process(Document("a", "@score-endless"), verify=FLAG, timeout_s=0.3)
    assert slow.ok
    assert slow.result["verify_error"] == "not done within the document's time limit of 0 s"
    (broken,) = process(Document("a", "@score-break"), verify=FLAG)
    assert broken.ok
    assert broken.result["verify_error"] == "BrokenEngineError: RuntimeError: scripted fault"


def test_sampled_answers_have_probabilities_and_no_differences(process):
    task = Task.from_spec({"name": "summarize", "max_new_tokens": 4, "temperature": 0.7})
    (row,) = process(LOSSY, verify=RERUN, task=task)
    assert (row.result["verified"], row.result["agreement"], row.result["first_difference"]) == (True, None, None)
    assert (row.result["logprob_full"], row.result["logprob_kept"], row.result["rerun"]) == (-1.0, -0.5, False)
    (row,) = process(LOSSY, verify={**FLAG, "share": 1e-9}, task=task)
    assert (row.result["verified"], row.result["verify_error"]) == (None, None)


class Strict(Task):
    """Uses nothing but an answer it knows."""

    wanted: str

    async def run(self, document, asker):
        first = await asker.ask(Prompt(document.text, "First?"), self.sampling)
        second = await asker.ask(Prompt("Other text.", "Second?"), self.sampling)
        if not first.text.startswith(self.wanted):
            raise AnswerError("no good", output=first.text)
        return TaskResult(f"{first.text}|{second.text}", pieces=2)


def test_an_answer_that_eviction_made_unusable_is_answered_again(process):
    task = Strict(wanted="Read @los", max_new_tokens=4)
    (flagged,) = process(LOSSY, task=task, verify=FLAG)
    assert (flagged.ok, flagged.result["first_difference"], flagged.result["agreement"]) == (False, 1, 7 / 8)
    (again,) = process(LOSSY, task=task, verify=RERUN)
    assert (again.ok, again.result["rerun"], again.result["verified"]) == (True, True, True)


def test_an_answer_is_never_given_up_for_an_unusable_one(process):
    first = process(LOSSY)[0].result["output"]
    (row,) = process(LOSSY, task=Strict(wanted=first, max_new_tokens=4), verify=RERUN)
    assert (row.ok, row.result["rerun"], row.result["first_difference"]) == (True, False, 1)
    assert row.result["verify_error"] == "not answered again: AnswerError: no good"
    assert row.memory["output_tokens"] == 16


def test_every_piece_of_a_long_document_is_verified(process):
    text = "\n\n".join(f"This is paragraph number {index} of the document." for index in range(60)) + " @lossy"
    (row,) = process(Document("a", text), verify=FLAG)
    assert row.result["pieces"] > 2
    assert row.memory["verify_s"] == 0.25 * row.result["pieces"]
    tokens = row.memory["output_tokens"]
    assert row.result["agreement"] == pytest.approx(1 - 1 / tokens)
    assert row.result["first_difference"] % 4 == 1


def test_an_unusable_answer_is_asked_for_again_without_eviction(process):
    task = Strict(wanted="Read @los", max_new_tokens=4)
    (failed,) = process(LOSSY, task=task)
    assert failed.result.get("fallback") is None
    (row,) = process(LOSSY, task=task, fallback=True)
    assert (row.ok, row.result["fallback"], row.result["fallback_error"]) == (True, True, "AnswerError: no good")
    assert row.result["output"].startswith("Read @los")
    assert (row.result["output_tokens"], row.memory["output_tokens"]) == (16, 16)  # both answers were paid for
    (good,) = process(GOOD, fallback=True)
    assert good.result.get("fallback") is None


def test_the_first_answer_stays_where_the_fallback_s_is_no_better(process):
    task = Strict(wanted="something else", max_new_tokens=4)
    (first,) = process(LOSSY, task=task)
    (row,) = process(LOSSY, task=task, fallback=True)
    assert (row.ok, row.result["fallback"], row.result["fallback_error"]) == (False, False, "AnswerError: no good")
    assert row.result["output"] == first.result["output"]
    (suspect,) = process(LOSSY, task=task, fallback=True, suspect=True)
    assert suspect.result["fallback"] is False
    assert suspect.result["fallback_error"].startswith("not tried: a replica was lost")


def test_what_has_no_answer_at_all_is_not_asked_for_again(process):
    refused, late = process(Document("a", "@error"), Document("b", "@endless"), fallback=True, timeout_s=0.5)
    assert {row.result.get("fallback") for row in (refused, late)} == {None}


def test_what_the_fallback_has_answered_can_be_verified(process):
    (row,) = process(LOSSY, task=Strict(wanted="Read @los", max_new_tokens=4), verify=RERUN, fallback=True)
    assert (row.ok, row.result["fallback"], row.result["verified"]) == (True, True, True)


class Halves(Task):
    """Two fields, of which those fail that an answer's form says."""

    async def run(self, document, asker):
        answer = await asker.ask(Prompt(document.text, "Fields?"), self.sampling)
        failed = {"a": "no number"} if answer.text.startswith("Read @los") else {"a": "no number", "b": "no date"}
        return TaskResult(answer.text, failed_fields=failed)


def test_of_two_answers_the_one_with_fewer_failed_fields_stands(process):
    (row,) = process(LOSSY, task=Halves(max_new_tokens=4), fallback=True)
    assert row.ok
    assert [one["field"] for one in row.result["failed_fields"]] == ["a"]
    assert (row.result["fallback"], row.result["fallback_error"]) == (True, "a: no number; b: no date")


def test_a_file_of_requests_is_answered_as_a_chat_row_each_and_read_by_the_client(tiny_model, tmp_path, rows):
    """200 requests, greedy and drawn, side by side; each again as a row of messages, with its values in columns."""
    shots = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The king."}]
    bodies = {
        f"request-{number}": {
            "model": "tiny",
            "messages": [*shots[: 2 * (number % 2)], {"role": "user", "content": f"{number} apples, " * 20}],
            "max_completion_tokens": 3 + number % 4,
            "temperature": (0, 0.5, 1.5)[number % 3],
            "seed": number,
            "presence_penalty": (0, 1.5)[number % 2],
            **({"logprobs": True, "top_logprobs": 2} if number % 10 == 0 else {}),
        }
        for number in range(200)
    }
    where = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [json.dumps({"custom_id": name, **where, "body": body}) for name, body in bodies.items()]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    source = Source.from_spec({"name": "openai_batch", "uri": str(tmp_path / "requests.jsonl")})
    (split,) = source.splits(["body"])
    named = {name: name for name in ("temperature", "seed", "presence_penalty")}
    named["max_new_tokens"] = "max_completion_tokens"
    single = Task.from_spec({"name": "chat", "messages_column": "messages", "row_values": named, "logprobs": 2})
    alone = [Document(name, "text", body) for name, body in reversed(bodies.items())]

    def load():
        config = {"dtype": "float32", "device": "cpu", "kv_memory": 1 << 26, "max_sequences": 50}
        engine = Engine.from_pretrained(tiny_model, policy={"name": "full"}, **config)
        return Model(engine, PromptTokenizer.from_pretrained(tiny_model), pool_tokens=4096)

    def answered(task, documents):
        builder = replace(rows, result_schema=result_schema(task.result_fields, {}))

        async def main():
            actor = EngineActor(WorkerSettings(load, task, builder, 60.0))
            await actor.load()
            found = await asyncio.gather(*map(actor.process, documents))
            stamped = [{**row.result, "committed_at": datetime.now(UTC)} for row in found]
            return pa.Table.from_pylist(stamped, schema=builder.result_schema)

        return asyncio.run(asyncio.wait_for(main(), 120))

    requests = answered(Task.from_spec({"name": "chat"}), source.read(split, ["body"]))
    assert set(requests["status"].to_pylist()) == {"ok"}
    by_name = {row["doc_id"]: row for row in answered(single, alone).to_pylist()}
    sink = io.BytesIO()
    OpenAIBatch().write([requests], requests.schema, sink)
    found = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [line["custom_id"] for line in found] == list(bodies)
    for line in found:
        completion, row = ChatCompletion.model_validate(line["response"]["body"]), by_name[line["custom_id"]]
        (choice,) = completion.choices
        assert (choice.message.content, choice.finish_reason) == (row["output"], row["finish_reason"])
        assert (completion.model, completion.usage.completion_tokens) == ("tiny", row["output_tokens"])
        assert completion.usage.prompt_tokens == row["prompt_tokens"] == row["request_tokens"]
        if choice.logprobs is not None:
            told = [(one.token, [top.token for top in one.top_logprobs]) for one in choice.logprobs.content]
            (expected,) = row["logprobs"]
            assert told == [(one["token"], [top["token"] for top in one["top_logprobs"]]) for one in expected]
    assert sum("logprobs" in body for body in bodies.values()) == sum(
        line["response"]["body"]["choices"][0]["logprobs"] is not None for line in found
    )
