"""The evaluation's prompts fit their lengths, hold what they ask for, and read as training's sequences do."""

import collections

import numpy as np
import pytest
from transformers import AutoTokenizer

from infra.training.cases import FACTS_TOKENS, draw_cases, prompt, read
from infra.training.compose import ANSWER, DOCUMENT
from infra.training.facts import TASKS
from tests.infra.training.conftest import ORCHARD, QUICKSTART


@pytest.fixture(scope="module")
def cases(tokenizer):
    return draw_cases(tokenizer, [512, 1024], 2)


def decode(tokenizer, case):
    return tokenizer.decode(case.prompt.tolist(), skip_special_tokens=False)


def test_a_prompt_is_the_beginning_of_a_training_sequence_and_what_the_chat_template_gives(compose):
    composer, question, answer = compose(0), "Who planted it?", "Ada Brand"
    document = composer.encode(ORCHARD)
    ids = prompt(composer, document, question)
    whole, weight = composer.sequence(document, [(question, answer)])
    np.testing.assert_array_equal(ids, whole[weight == 1])
    chat = AutoTokenizer.from_pretrained(QUICKSTART / "model")
    messages = [{"role": "document", "content": ORCHARD}, {"role": "user", "content": question}]
    settings = {"tokenize": True, "return_dict": False}
    assert chat.apply_chat_template(messages, add_generation_prompt=True, **settings) == ids.tolist()
    messages.append({"role": "assistant", "content": answer})
    assert chat.apply_chat_template(messages, **settings) == whole.tolist()


def test_every_group_has_its_number_of_cases(cases):
    count = collections.Counter((case.group, case.task) for case in cases)
    expected = {(f"facts {length}", task.__name__): 2 for length in (512, 1024) for task in TASKS}
    expected |= {(group, group): 10 for group in ("squad alone", "squad planted")}
    expected |= {("summaries", task): 10 for task in {row["task"] for row in read("summaries")}}
    assert count == expected


def test_prompts_start_with_the_document_mark_and_end_where_the_answer_starts(cases, tokenizer):
    for case in cases:
        assert case.prompt[0] == tokenizer.token_to_id(DOCUMENT)
        assert case.prompt[-1] == tokenizer.token_to_id(ANSWER)
        assert case.answers


def test_facts_fit_their_length_with_the_answer_and_hold_every_part_of_it(cases, tokenizer):
    for case in (case for case in cases if case.group.startswith("facts")):
        length = int(case.group.split()[1])
        assert length / 2 < len(case.prompt) <= length - FACTS_TOKENS
        (answer,) = case.answers
        assert len(tokenizer.encode(answer, add_special_tokens=False).ids) < FACTS_TOKENS
        assert all(word.strip(",;") in decode(tokenizer, case) for word in answer.split())


def test_squad_holds_its_answers_alone_and_planted(cases, tokenizer):
    rows = [row for row in read("squad")[:10] for _ in range(2)]
    found = [case for case in cases if case.group.startswith("squad")]
    for row, case in zip(rows, found, strict=True):
        text = decode(tokenizer, case)
        assert row["context"] in text
        assert f"<|question|> {row['question'].strip()}<|answer|>" in text
        assert case.answers == tuple(row["answers"])
        assert (len(case.prompt) > 3500) == (case.group == "squad planted")


def test_cases_are_the_same_every_time_and_do_not_depend_on_other_lengths(cases, tokenizer):
    again = [case for case in draw_cases(tokenizer, [1024], 1) if case.group == "facts 1024"]
    before = [case for case in cases if case.group == "facts 1024"][::2]
    for one, two in zip(again, before, strict=True):
        assert (one.task, one.answers) == (two.task, two.answers)
        np.testing.assert_array_equal(one.prompt, two.prompt)
