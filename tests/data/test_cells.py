import numpy as np
import pyarrow as pa
import pytest

from corm_batch.data.cells import may_be_ids, may_be_text, text_of, usable_id

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    {"role": "assistant", "content": None},
]

CALL = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}]}
CALLED = '[{"id": "1", "function": {"name": "add", "arguments": "{}"}}]'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a text", "a text"),
        (["one", None, "two", ["three"]], "one|two|three"),
        ([b"caf\xc3\xa9", ""], "caf\u00e9|"),
        (CHAT, "system: Be brief.|user: one|two|assistant: "),
        ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello", "weight": 1}], "human: hi|gpt: hello"),
        ({"role": "user", "content": "alone"}, "user: alone"),
        (("one", "two"), "one|two"),
        ([{**CALL, "content": None}], f"assistant: {CALLED}"),
        ([{**CALL, "content": "Well,"}], f"assistant: Well,|{CALLED}"),
        ([CALL, {"role": "tool", "tool_call_id": "1", "content": "12"}], f"assistant: {CALLED}|tool: 12"),
        ({"role": "assistant", "content": None, "refusal": "No.", "tool_calls": None}, "assistant: No."),
    ],
)
def test_texts_lists_and_messages(value, text):
    assert text_of(value, "|") == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is null"),
        ([], "is empty"),
        ([None, " ", "\n"], "is empty"),
        (["a", 5], "holds no text but int"),
        (["a", b"\xff"], "holds invalid UTF-8"),
        (["a", "\ud800"], "half a surrogate pair"),
        ({"body": "x", "title": "y"}, "no text but an object (with 'body', 'title')"),
        ([{}], "no text but an object (with nothing)"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part of type 'image_url'"),
        (True, "holds no text but bool"),
        (ValueError("of no calendar"), "cannot be read (of no calendar)"),
    ],
)
def test_what_cannot_be_asked_about_says_why(value, why):
    with pytest.raises(ValueError) as caught:
        text_of(value, "|")
    assert why in str(caught.value)


def test_types_that_may_hold_texts_and_ids():
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    texts = [pa.string(), pa.list_(pa.string()), pa.list_(pa.large_list(pa.binary())), pa.list_(message), pa.null()]
    assert all(map(may_be_text, texts))
    others = [pa.int64(), pa.list_(pa.int64()), pa.struct([("body", pa.string())]), pa.map_(pa.string(), pa.string())]
    assert not any(map(may_be_text, others))
    ids = [pa.int8(), pa.float64(), pa.decimal128(4, 2), pa.uuid(), pa.dictionary(pa.int8(), pa.string())]
    assert all(map(may_be_ids, ids))
    assert not any(map(may_be_ids, [pa.bool_(), pa.list_(pa.string()), pa.date32()]))


def test_whole_numbers_of_any_library_are_ids():
    assert [usable_id(value) for value in (7, np.int64(7), np.uint8(7), np.float64(7), True, np.bool_(True))] == [
        *("7", "7", "7", "7", None, None)
    ]
