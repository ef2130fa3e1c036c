"""Which tokens are an instruction's: all of it, whatever the document, and next to nothing of the document."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from corm_batch.evaluation.base import Case
from corm_batch.evaluation.suites.needles import Needles
from corm_batch.tasks.base import Prompt
from corm_batch.text.instruction import instruction_spans
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

QUESTION = "What is the pass key?"
TEXTS = [
    "The pass key is 4711. It was noon." * 3,
    "\n\n  Blanks around it.\n\n",
    "What is the pass key?\n\nWhat is the pass key?",  # the question itself
    "What is",
    "<|question|> <|answer|>",
    "x",
    "y",
    "?",
    "1234\u0301 — ümlaut …",
]


def parted(tokenizer, prompt):
    """The texts of what is the instruction's and of what is not."""
    ids, spans = tokenizer.encode(prompt), instruction_spans(tokenizer, prompt)
    kept = {token for span in spans for token in span}
    ours = [tokenizer.spelled([ids[i] for i in span]) for span in spans]
    return ours, tokenizer.spelled([id_ for i, id_ in enumerate(ids) if i not in kept]), len(ids) - len(kept)


@pytest.mark.parametrize("role", ["user", "document"])
@pytest.mark.parametrize("text", TEXTS)
def test_behind_the_document(text, role):
    tokenizer = PromptTokenizer.from_pretrained(MODEL, document_role=role)
    ours, rest, left = parted(tokenizer, Prompt(text, QUESTION))
    assert QUESTION in ours[-1]
    assert ours[-1].endswith("<|answer|>")
    assert rest.strip("\ufffd") in text  # a seam may part a character
    size = len(tokenizer.text_ids(text))
    if text not in TEXTS[2:4]:  # which begin or end as the question does
        assert left >= size - 5


@pytest.mark.parametrize("text", TEXTS)
def test_before_the_document(text):
    tokenizer = PromptTokenizer(AutoTokenizer.from_pretrained(MODEL))
    case = Case("", "", text, QUESTION, ("4711",), 8)
    ours, rest, _ = parted(tokenizer, Needles(position="before").prompt(case))
    assert QUESTION in ours[0]
    assert ours[-1].endswith("<|answer|>")
    assert rest.strip("\ufffd") in text


def test_a_system_prompt_is_no_document():
    tokenizer = PromptTokenizer.from_pretrained(MODEL)
    plain = AutoTokenizer.from_pretrained(MODEL)
    plain.chat_template = None
    for one in (tokenizer, PromptTokenizer(plain, system="Answer briefly.")):
        ours, rest, _ = parted(one, Prompt(TEXTS[0], QUESTION))
        assert QUESTION in ours[-1]
        assert rest in TEXTS[0]
    assert ours[0].startswith("Answer briefly.")


def test_a_prompt_without_a_document_is_all_instruction():
    tokenizer = PromptTokenizer.from_pretrained(MODEL)
    assert parted(tokenizer, Prompt("", QUESTION))[2] == 0
