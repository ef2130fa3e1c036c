"""Chats: each row's own messages and, where it is a request, its own parameters."""

import asyncio
import json

import pyarrow as pa
import pytest

from corm_batch.data.document import Document
from corm_batch.errors import DocumentError, SpecError
from corm_batch.spec import JobSpec
from corm_batch.tasks.base import Task
from corm_batch.tasks.messages import Message

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]


class Noting:
    """Takes note of what is asked, and answers alike."""

    def __init__(self, asker):
        self.asker, self.asks = asker, []

    def __getattr__(self, name):
        return getattr(self.asker, name)

    async def ask_all(self, asks):
        self.asks += asks
        return await self.asker.ask_all(asks)


@pytest.fixture
def chat(fake_asker):
    """The result of a task over one row, and what was asked."""

    def run(section, reply="Hello.", context=10_000, **columns):
        asker = Noting(fake_asker(lambda prompt: reply, context))
        task = Task.from_spec({"name": "chat", **section})
        return asyncio.run(task.run(Document("a", "text", columns), asker)), asker.asks

    return run


def test_a_request_is_answered_as_it_says_and_the_rest_as_the_task_says(chat):
    body = {"model": "m", "messages": CHAT, "max_tokens": 5, "temperature": 0.5, "stop": "x", "logprobs": True}
    result, (ask,) = chat({"seed": 9, "max_new_tokens": 50, "top_p": 0.5}, body={**body, "top_logprobs": 2})
    assert ask.prompt.messages == (Message("system", "Be brief."), Message("user", "Hi."))
    assert ask.stop == ("x",)
    said = ask.sampling
    assert (said.max_new_tokens, said.temperature, said.seed, said.top_p, said.logprobs) == (5, 0.5, 9, 0.5, 2)
    assert (result.output, result.finish_reason, result.columns["model"]) == ("Hello", "length", "m")
    assert (result.columns["answers"], result.columns["finish_reasons"]) == (["Hello"], ["length"])
    pa.Table.from_pylist([dict(result.columns)], schema=pa.schema(Task.from_spec({"name": "chat"}).result_fields))


def test_messages_alone_are_a_chat_too(chat):
    result, (ask,) = chat({"messages_column": "m", "served_model_name": "org/m", "max_new_tokens": 3}, m=CHAT)
    assert (ask.prompt.messages[1], result.output, result.columns["model"]) == (("user", "Hi."), "Hel", "org/m")
    assert ask.sampling.temperature == 0
    with pytest.raises(DocumentError, match=r"^m\[0\]\.role"):
        chat({"messages_column": "m"}, m=[{"role": "x", "content": "y"}])


def test_several_answers_of_a_request(chat):
    result, asks = chat({}, body={"messages": CHAT, "n": 3, "temperature": 1})
    assert (len(asks), json.loads(result.output), result.pieces) == (3, ["Hello."] * 3, 3)
    with pytest.raises(DocumentError, match="3 answers at temperature 0"):
        chat({}, body={"messages": CHAT, "n": 3})


def test_what_a_request_wants_of_json_is_asked_and_checked(chat):
    wanted = {"messages": CHAT, "response_format": {"type": "json_object"}}
    result, (ask,) = chat({}, '{"a": 1}', body=wanted)
    assert (ask.grammar.kind, result.output) == ("json_schema", '{"a": 1}')
    with pytest.raises(DocumentError, match="is no JSON"):
        chat({}, "text", body=wanted)


def test_a_chat_that_is_too_long_or_for_another_model_is_refused(chat):
    with pytest.raises(DocumentError, match="2 messages and 256 new tokens are longer than the model's context"):
        chat({}, context=200, body={"messages": CHAT})
    with pytest.raises(DocumentError, match=r"^body\.model: the model is called 'm' here, got 'other'"):
        chat({"served_model_name": "m"}, body={"messages": CHAT, "model": "other"})
    assert chat({"served_model_name": "m"}, body={"messages": CHAT, "model": "m"})
    with pytest.raises(SpecError, match=r"task\.overflow"):
        Task.from_spec({"name": "chat", "overflow": "truncate"})


def test_a_spec_knows_what_a_request_may_change(tmp_path):
    spec = {
        "name": "batch",
        "model": {"name": "org/model"},
        "source": {"name": "openai_batch", "uri": str(tmp_path / "in")},
        "task": {"name": "chat"},
        "output": {"uri": str(tmp_path / "out"), "format": "openai_batch"},
    }
    read = JobSpec.from_mapping(spec)
    assert read.output.whole_file == f"{tmp_path}/out/results.batch.jsonl"
    assert read.task.columns_read == ("body",)
    with pytest.raises(SpecError, match=r"verify\.on_difference: 'rerun', but task\.temperature is each row's own"):
        JobSpec.from_mapping({**spec, "verify": {"share": 1, "on_difference": "rerun"}})
    with pytest.raises(SpecError, match="nothing tells text from instruction"):
        JobSpec.from_mapping({**spec, "policy": {"name": "corm", "pin_instruction": True}})
    with pytest.raises(SpecError, match=r"output\.format: format openai_batch: the rows have no answers, finish_reas"):
        JobSpec.from_mapping({**spec, "task": {"name": "summarize"}})
