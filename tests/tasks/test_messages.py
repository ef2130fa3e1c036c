"""What messages are, and what is wrong with what are none."""

import pytest

from corm_batch.errors import DocumentError
from corm_batch.tasks.messages import Message, messages_of

USER = {"role": "user", "content": "Hi."}


def test_parts_of_a_content_are_lines():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    nulls = {"name": None, "tool_calls": [], "refusal": None}
    given = [{"role": "system", "content": parts, **nulls}, {"role": "assistant", "content": ""}]
    assert messages_of(given, "m") == (Message("system", "a\nb"), Message("assistant", ""))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (None, "^m: expected a list of messages, each with role and content, got None"),
        ([], r"^m: expected a list of messages.*got \[\]"),
        ("Hi.", "^m: expected a list of messages"),
        (USER, "^m: expected a list of messages"),
        ([USER, "Hi."], r"^m\[1\]: expected an object"),
        ([{"content": "Hi."}], r"^m\[0\]\.role: expected one of system, .*got None"),
        ([{"role": "tool", "content": "x"}], r"role: expected one of .*got 'tool'"),
        ([{"role": "user"}], r"^m\[0\]\.content: expected a text"),
        ([{**USER, "name": "Ann"}], r"^m\[0\]\.name: cannot be honoured"),
        ([{**USER, "content": [{"type": "image_url"}]}], r"content\[0\]: expected a part of type text"),
        ([{**USER, "content": "\ud800"}], "half a surrogate pair"),
    ],
)
def test_what_is_no_message_is_named_with_its_place(given, problem):
    with pytest.raises(DocumentError, match=problem):
        messages_of(given, "m")
