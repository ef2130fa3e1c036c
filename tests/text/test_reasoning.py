from types import SimpleNamespace

import pytest

from corm_batch.text.reasoning import ReasoningMarks, reasoning_marks

THINK = ReasoningMarks("<think>", "</think>")


def decode(ids):
    return "".join(map(chr, ids)).strip()


def part(marks, text):
    return marks.part([ord(char) for char in text], decode)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Just an answer.", ("", "Just an answer.")),
        ("<think>Hm {1}.</think>\n\nFinal", ("Hm {1}.", "Final")),
        ("Hm.</think>Final", ("Hm.", "Final")),
        ("<think>a</think>b<think>c</think>d", ("a</think>b<think>c", "d")),
        ("<think>\n\n</think>\n\nFinal", ("", "Final")),
        ("<think>Hm and no end", ("Hm and no end", None)),
        ("<think>Hm.</think> ", ("Hm.", None)),
        ("The tag <think> begins it.", ("", "The tag <think> begins it.")),
        ("", ("", "")),
    ],
)
def test_what_stands_before_the_mark_is_no_answer(text, parts):
    assert part(THINK, text) == parts


@pytest.mark.parametrize(
    ("template", "prompt", "parts"),
    [
        ("{{ messages }}", "q", ("", "Put it between <think> and </think> tags.")),
        ("{{ '<think></think>' }}", "<think>\n\n</think>\n\n", ("", "Put it between <think> and </think> tags.")),
        ("{{ '</think>' }}", "q", ("Put it between <think> and", "tags.")),
        ("{{ messages }}", "q <think>\n", ("Put it between <think> and", "tags.")),
    ],
)
def test_an_answer_may_speak_of_the_marks_where_no_reasoning_has_begun(template, prompt, parts):
    marks = reasoning_marks(tokenizer(template), prompt)
    assert part(marks, "Put it between <think> and </think> tags.") == parts
    assert part(marks, "<think>Hm.</think>Final") == ("Hm.", "Final")


def test_a_prompt_that_begins_the_reasoning():
    marks = ReasoningMarks("<think>", "</think>", is_open=True)
    assert part(marks, "Hm.</think>Final") == ("Hm.", "Final")
    assert part(marks, "Hm, and no end") == ("Hm, and no end", None)


def test_marks_that_decoding_drops():
    marks = ReasoningMarks("[THINK]", "[/THINK]", begin_ids=(1,), end_ids=(2, 3))
    without = lambda ids: decode([id_ for id_ in ids if id_ > 3])  # noqa: E731
    assert marks.part([1, 65, 2, 3, 66, 2, 3, 67], without) == ("AB", "C")
    assert marks.part([1, 65, 2], without) == ("A", None)
    assert marks.part([65, 66], without) == ("", "AB")


def tokenizer(template, *added, special=()):
    tokens = [SimpleNamespace(content=content, special=content in special) for content in (*added, *special)]

    class Fake(SimpleNamespace):
        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            return {"input_ids": [ord(char) for char in text]}

    return Fake(chat_template=template, added_tokens_decoder=dict(enumerate(tokens)))


@pytest.mark.parametrize(
    ("template", "added", "marks"),
    [
        (None, (), ("<think>", "</think>")),
        ("{{ messages }}", ("<tool>",), ("<think>", "</think>")),
        ("{% set c = content.split('</think>')[-1] %}", (), ("<think>", "</think>")),
        ("{{ '<seed:think>' }}{{ '</seed:think>' }}", (), ("<seed:think>", "</seed:think>")),
        ("{{ messages }}", ("◁think▷", "◁/think▷"), ("◁think▷", "◁/think▷")),
        ("</thought>", ("</think>",), ("<thought>", "</thought>")),
        ("<b>{{ messages }}</b> </reasoning>", (), ("<reasoning>", "</reasoning>")),
    ],
)
def test_marks_are_those_of_the_template_or_of_the_added_tokens(template, added, marks):
    found = reasoning_marks(tokenizer(template, *added), "a prompt")
    assert ((found.begin, found.end), found.end_ids, found.is_open) == (marks, (), False)


def test_marks_of_special_tokens_are_known_by_their_ids():
    found = reasoning_marks(tokenizer("[/THINK]", special=("[THINK]", "[/THINK]")), "a prompt [THINK]\n")
    assert (found.end, decode(found.end_ids), decode(found.begin_ids)) == ("[/THINK]", "[/THINK]", "[THINK]")
    assert found.is_open
    template = "{{ '<|start|>assistant<|channel|>final<|message|>' }}"
    found = reasoning_marks(tokenizer(template, special=("<|channel|>", "<|message|>")), "<|start|>assistant")
    assert decode(found.end_ids) == "<|channel|>final<|message|>"
    assert not found.is_open
