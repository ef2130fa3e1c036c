"""Rows of chats as OpenAI's batch output: read by the client library's own types."""

import datetime
import io
import json

import pyarrow as pa
import pytest
from openai.types.chat import ChatCompletion

from corm_batch.data.formats.openai_batch import OpenAIBatch
from corm_batch.data.schema import result_schema
from corm_batch.tasks.chat import Chat

SCHEMA = result_schema(Chat().result_fields, {})
ROW = {
    **{"doc_id": "a", "run_id": "r", "content_sha256": "", "fingerprint": "", "status": "ok", "model": "org/m"},
    **{"answers": ["Hi."], "finish_reasons": ["stop"], "logprobs": [None], "request_tokens": 9, "output_tokens": 3},
    "committed_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
}


def lines(*rows):
    sink = io.BytesIO()
    OpenAIBatch().write([pa.Table.from_pylist([{**ROW, **row} for row in rows], schema=SCHEMA)], SCHEMA, sink)
    return list(map(json.loads, sink.getvalue().splitlines()))


def completion(**row):
    (line,) = lines(row)
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    return ChatCompletion.model_validate(line["response"]["body"], strict=True)


def test_an_answer_is_a_chat_completion():
    found = completion(reasoning_content="Hm.")
    assert (found.object, found.model, found.created) == ("chat.completion", "org/m", 1767312000)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (9, 3, 12)
    (choice,) = found.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert (choice.message.content, choice.message.reasoning_content, choice.logprobs) == ("Hi.", "Hm.", None)
    assert completion(model=None).model == ""


def test_answers_are_choices_and_one_that_failed_is_left_out():
    found = completion(answers=["x", None, "z"], finish_reasons=["stop", None, "length"], logprobs=[None] * 3)
    assert [(one.index, one.message.content, one.finish_reason) for one in found.choices] == [
        (0, "x", "stop"),
        (2, "z", "length"),
    ]


def test_tokens_have_their_bytes_and_the_likeliest_in_their_places():
    top = {"token": " b", "token_id": 7, "bytes": b" b", "logprob": -0.25}
    token = {"token": "\ufffd", "token_id": 5, "bytes": b"\xc3", "logprob": -1.5, "top_logprobs": [top]}
    (choice,) = completion(logprobs=[[token]]).choices
    (own,) = choice.logprobs.content
    assert (own.token, own.bytes, own.logprob) == ("\ufffd", [0xC3], -1.5)
    assert [(one.token, one.bytes, one.logprob) for one in own.top_logprobs] == [(" b", [32, 98], -0.25)]


def test_a_failed_row_is_an_error_object():
    failed = {"status": "failed", "error_type": "DocumentError", "error_message": "body.tools: no", "answers": None}
    good, bad, again = lines({}, {"doc_id": "b", **failed}, {"run_id": "s"})
    assert bad["error"] == {"code": "DocumentError", "message": "body.tools: no"}
    assert (bad["custom_id"], bad["response"]) == ("b", None)
    assert len({line["id"] for line in (good, bad, again)}) == 3
    assert set(good) == {"id", "custom_id", "response", "error"}


def test_other_rows_are_refused():
    assert OpenAIBatch.find_problem(SCHEMA.names) is None
    with pytest.raises(KeyError):
        OpenAIBatch().write([pa.table({"doc_id": ["a"]})], SCHEMA, io.BytesIO())
    problem = OpenAIBatch.find_problem(["doc_id", "model", "request_tokens", "answers"])
    assert problem == "format openai_batch: the rows have no finish_reasons, logprobs, as those of task chat do"
