"""Files of OpenAI batch requests: what is right of each line, and what is wrong with it."""

import json

import pytest

from corm_batch.data.sources.openai_batch import OpenAIBatchSource
from corm_batch.errors import SpecError

BODY = {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]}


def line(custom_id="a", **changes):
    whole = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": BODY, **changes}
    return json.dumps({name: value for name, value in whole.items() if value != "none"})


@pytest.fixture
def read(tmp_path):
    def documents(*lines, carried=()):
        (tmp_path / "requests.jsonl").write_text("\n".join(lines))
        source = OpenAIBatchSource(uri=str(tmp_path / "requests.jsonl"))
        splits = source.splits(["body", *carried])
        return [one for split in splits for one in source.read_carrying(split, ["body"], carried)]

    return documents


def test_a_line_is_a_request_whose_text_is_what_its_messages_say(read):
    first, second = read(line(), line("7", topic="greetings"), carried=["topic"])
    assert (first.doc_id, first.columns, first.problem) == ("a", {"body": BODY}, None)
    assert first.text == "system: Be brief.\n\nuser: Hi."
    assert (second.doc_id, second.carried) == ("7", {"topic": "greetings"})
    assert first.content_sha256 == second.content_sha256
    (other,) = read(line(body={**BODY, "temperature": 1}))
    assert other.content_sha256 != first.content_sha256


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (line("b", url="/v1/embeddings"), "url: expected /v1/chat/completions, got '/v1/embeddings'"),
        (line("b", url="none"), "url: expected /v1/chat/completions, got None"),
        (line("b", method="GET"), "method: expected POST, got 'GET'"),
        (line("b", body={"model": "m"}), "column 'body.messages' is null"),
        (line("b", body={**BODY, "messages": []}), "column 'body.messages' is empty"),
        (line("b", body="none"), "body: expected an object with messages, got None"),
        (line("b", body="text"), "body: expected an object with messages, got 'text'"),
        (line("none"), "column 'custom_id' holds no usable id"),
        ('{"custom_id": "b", ', "the line is no JSON"),
        ("[1]", "the line holds no JSON object but list"),
        (
            line("b", body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "holds no text but a part of type 'image_url'",
        ),
    ],
)
def test_a_line_that_is_no_request_says_why_and_the_others_stay(read, wrong, problem):
    good, bad, last = read(line(), wrong, line("c"))
    assert (good.problem, last.problem, bad.text) == (None, None, None)
    assert problem in bad.problem
    assert bad.problem.startswith(bad.origin)


def test_a_file_of_something_else_is_refused(read):
    with pytest.raises(SpecError, match="no line has a column 'custom_id'; there are: doc_id, text"):
        read('{"doc_id": "a", "text": "b"}')
