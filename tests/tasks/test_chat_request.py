"""Requests as OpenAI's chat completions take them: all of each is honoured, or refused by name."""

import json

import pytest

from corm_batch.errors import AnswerError, DocumentError
from corm_batch.tasks.base import Answer
from corm_batch.tasks.chat import Chat
from corm_batch.tasks.chat_request import ChatRequest
from corm_batch.tasks.messages import Message

USER = {"role": "user", "content": "Hi."}
SCHEMA = {"type": "object", "properties": {"year": {"type": "integer", "maximum": 2000}}, "required": ["year"]}


def request(**body):
    return ChatRequest.of_body({"messages": [USER], **body}, Chat, "body")


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"max_tokens": 7}, "max_new_tokens", 7),
        ({"max_completion_tokens": 7}, "max_new_tokens", 7),
        ({"max_tokens": 7, "max_completion_tokens": 7}, "max_new_tokens", 7),
        ({"temperature": 1}, "temperature", 1.0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_k": 5}, "top_k", 5),
        ({"top_k": -1}, "top_k", 0),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"seed": 3}, "seed", 3),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop_token_ids": [4]}, "stop_token_ids", (4,)),
        ({"presence_penalty": -1}, "presence_penalty", -1.0),
        ({"frequency_penalty": 0.5}, "frequency_penalty", 0.5),
        ({"repetition_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"n": 2}, "n", 2),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": False, "top_logprobs": 0}, "logprobs", None),
        ({"logprobs": True, "top_logprobs": 20}, "logprobs", 20),
    ],
)
def test_parameters_become_fields_of_the_task(given, field, value):
    assert request(**given).values == {field: value}
    assert getattr(Chat().model_copy(update=request(**given).values), field) == value


def test_what_says_nothing_and_what_is_done_anyway_is_taken():
    neutral = {"stream": False, "tools": [], "tool_choice": "auto", "logit_bias": {}, "min_tokens": 0}
    nothing = {"user": "u", "metadata": {"a": "b"}, "model": "m", "top_logprobs": 0, "store": True, "priority": 3}
    nothing |= {"stream_options": {"include_usage": True}, "service_tier": "flex", "prompt_cache_retention": "24h"}
    nulls = dict.fromkeys(("temperature", "functions", "wibble", "response_format", "chat_template_kwargs", "stop"))
    found = request(**neutral, **nothing, **nulls)
    assert found == ChatRequest((Message("user", "Hi."),), {}, "m")
    assert found.form(8) is None


def test_what_the_template_is_told_is_spelled_one_way():
    first = request(chat_template_kwargs={"b": [1], "a": False, "c": None})
    assert first.template_arguments == request(chat_template_kwargs={"a": False, "b": [1]}).template_arguments
    assert json.loads(first.template_arguments) == {"a": False, "b": [1]}
    effort = request(reasoning_effort="low", chat_template_kwargs={"a": 1})
    assert json.loads(effort.template_arguments) == {"a": 1, "reasoning_effort": "low"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"wibble": 1}, r"^body\.wibble: cannot be honoured, got 1; a request may set .*temperature"),
        ({"tools": [{"type": "function"}]}, r"^body\.tools: can only be \[\] here"),
        ({"stream": True}, r"^body\.stream: can only be false here, got True"),
        ({"tool_choice": "required"}, r'can only be "none" or "auto" here'),
        ({"reasoning_effort": 3}, r"^body\.reasoning_effort: expected a word such as low, got 3"),
        ({"logit_bias": {"4": 1}}, r"^body\.logit_bias"),
        ({"ignore_eos": True}, r"^body\.ignore_eos"),
        ({"guided_json": {}}, r"^body\.guided_json: cannot be honoured"),
        ({"temperature": -1}, r"^body\.temperature: .*greater than or equal to 0, got -1"),
        ({"temperature": True}, r"^body\.temperature: .*number, got True"),
        ({"max_tokens": 0}, r"^body\.max_tokens: "),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens and max_completion_tokens differ"),
        ({"n": 200}, r"^body\.n: "),
        ({"seed": -1}, r"^body\.seed: "),
        ({"top_k": -2}, r"^body\.top_k: "),
        ({"stop": [""]}, r"^body\.stop: "),
        ({"logprobs": 3}, r"^body\.logprobs: expected true or false, got 3"),
        ({"top_logprobs": 3}, r"^body\.top_logprobs: 3 needs logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, r"^body\.top_logprobs: .*20, got 21"),
        ({"model": 4}, r"^body\.model: expected a name"),
        ({"chat_template_kwargs": "x"}, r"^body\.chat_template_kwargs: expected an object"),
        ({"response_format": "json"}, r"^body\.response_format: expected an object"),
        ({"messages": None}, r"^body\.messages: expected a list of messages"),
        ({"messages": []}, r"^body\.messages: expected a list of messages"),
        ({"messages": "Hi."}, r"^body\.messages: expected a list of messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(given, problem):
    with pytest.raises(DocumentError, match=problem):
        request(**given)


@pytest.mark.parametrize("body", [None, "text", ["a"], 3])
def test_a_body_that_is_none_is_refused(body):
    with pytest.raises(DocumentError, match=r"^body: expected an object with messages"):
        ChatRequest.of_body(body, Chat, "body")


def test_an_answer_is_held_to_a_schema_and_checked_for_the_rest():
    schema = {"name": "x", "strict": True, "schema": SCHEMA}
    form = request(response_format={"type": "json_schema", "json_schema": schema}).form(64)
    assert json.loads(form.grammar.text)["properties"]["year"]["type"] == "integer"
    right, cut = Answer('{"year": 1999}', "stop", -1.0), Answer('{"ye', "length", -1.0)
    assert (form.checked(right), form.checked(cut)) == (right, cut)
    wrong = form.checked(Answer('{"year": 2001}', "stop", -1.0))
    assert isinstance(wrong, AnswerError)
    assert "breaks response_format: $.year: 2001" in str(wrong)
    assert "is no JSON" in str(form.checked(Answer('{"ye', "stop", -1.0)))
    anything = request(response_format={"type": "json_object"}).form(64)
    assert anything.checked(Answer('{"a": {"b": [{"c": 1}]}}', "stop", -1.0)).finish_reason == "stop"
    assert isinstance(anything.checked(Answer("[]", "stop", -1.0)), AnswerError)
    assert request(response_format={"type": "text"}).form(64) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"id": 12345678901234567, "note": "short"}, "stop"),
        ({"id": 123456789012345678, "note": "short"}, "length"),
        ({"id": 1, "note": "x" * 200}, "length"),
    ],
)
def test_what_ended_only_because_its_form_has_an_end_was_cut(answer, reason):
    schema = {"type": "object", "properties": {"id": {"type": "integer"}, "note": {"type": "string"}}}
    form = request(response_format={"type": "json_schema", "json_schema": {"schema": schema}}).form(64)
    if "x" in answer["note"]:
        answer["note"] = "x" * json.loads(form.grammar.text)["properties"]["note"]["maxLength"]
    assert form.checked(Answer(json.dumps(answer), "stop", -1.0)).finish_reason == reason


@pytest.mark.parametrize(
    ("response_format", "problem"),
    [
        ({"type": "xml"}, r"^response_format\.type: expected text, json_object or json_schema, got 'xml'"),
        ({"type": "json_schema"}, r"^response_format\.json_schema\.schema: expected a JSON Schema, got None"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "wibble"}}}, "no valid JSON Schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "string"}}}, "must have type: object"),
    ],
)
def test_a_form_that_is_none_is_refused(response_format, problem):
    with pytest.raises(DocumentError, match=problem):
        request(response_format=response_format).form(64)
