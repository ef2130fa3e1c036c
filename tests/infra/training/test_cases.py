"""The evaluation's prompts fit their lengths, hold what they ask for, and read as training's sequences do."""

import collections

import pytest
from transformers import AutoTokenizer

from corm_batch.evaluation.base import Suite
from corm_batch.tasks.base import Prompt
from infra.training.cases import SUITES, draw_cases, prompt_tokenizer, read
from infra.training.compose import ANSWER, DOCUMENT
from infra.training.facts import TASKS
from tests.infra.training.conftest import ORCHARD, QUICKSTART

ALL = [Suite.from_spec(spec) for spec in SUITES.values()]
FACTS_TOKENS = 64


@pytest.fixture(scope="module")
def chat():
    return prompt_tokenizer(str(QUICKSTART / "model"))


@pytest.fixture(scope="module")
def cases(chat):
    return list(draw_cases(chat, ALL, [512, 1024], 2))


def decode(tokenizer, asked):
    return tokenizer.decode(list(asked.prompt), skip_special_tokens=False)


def test_a_prompt_is_the_beginning_of_a_training_sequence_and_what_the_chat_template_gives(compose, chat):
    composer, question, answer = compose(0), "Who planted it?", "Ada Brand"
    document = composer.encode(ORCHARD)
    ids = list(chat.encode(Prompt(ORCHARD, question)))
    whole, weight = composer.sequence(document, [(question, answer)])
    assert ids == whole[weight == 1].tolist()
    chat = AutoTokenizer.from_pretrained(QUICKSTART / "model")
    messages = [{"role": "document", "content": ORCHARD}, {"role": "user", "content": question}]
    settings = {"tokenize": True, "return_dict": False}
    assert chat.apply_chat_template(messages, add_generation_prompt=True, **settings) == ids
    messages.append({"role": "assistant", "content": answer})
    assert chat.apply_chat_template(messages, **settings) == whole.tolist()


def test_every_group_has_its_number_of_cases(cases):
    count = collections.Counter((asked.case.group, asked.case.task) for asked in cases)
    expected = {(f"facts {length}", task.__name__): 2 for length in (512, 1024) for task in TASKS}
    expected |= {(group, group): 10 for group in ("squad alone", "squad planted")}
    expected |= {("summaries", task): 10 for task in {row["task"] for row in read("summaries")}}
    assert count == expected


def test_prompts_start_with_the_document_mark_and_end_where_the_answer_starts(cases, tokenizer):
    for asked in cases:
        assert asked.prompt[0] == tokenizer.token_to_id(DOCUMENT)
        assert asked.prompt[-1] == tokenizer.token_to_id(ANSWER)
        assert asked.case.answers


def test_facts_fit_their_length_with_the_answer_and_hold_every_part_of_it(cases, tokenizer):
    for asked in (asked for asked in cases if asked.case.group.startswith("facts")):
        length = int(asked.case.group.split()[1])
        assert asked.case.max_new_tokens == FACTS_TOKENS
        assert length / 2 < len(asked.prompt) <= length - FACTS_TOKENS
        (answer,) = asked.case.answers
        assert len(tokenizer.encode(answer, add_special_tokens=False).ids) < FACTS_TOKENS
        assert all(word.strip(",;") in decode(tokenizer, asked) for word in answer.split())


def test_squad_holds_its_answers_alone_and_planted(cases, tokenizer):
    rows = [row for row in read("squad")[:10] for _ in range(2)]
    found = [asked for asked in cases if asked.case.group.startswith("squad")]
    for row, asked in zip(rows, found, strict=True):
        text = decode(tokenizer, asked)
        assert row["context"] in text
        assert f"<|question|> {row['question'].strip()}<|answer|>" in text
        assert asked.case.answers == tuple(row["answers"])
        assert (len(asked.prompt) > 3500) == (asked.case.group == "squad planted")


def test_cases_are_the_same_every_time_and_do_not_depend_on_other_lengths(cases, chat):
    again = list(draw_cases(chat, ALL[:4], [1024], 1))
    before = [asked for asked in cases if asked.case.group == "facts 1024"][::2]
    assert again == before


@pytest.mark.real_model
def test_a_released_model_is_asked_through_its_chat_template(released_model):
    chat = prompt_tokenizer(released_model)
    assert chat.spelled(chat.encode(Prompt("Noon.", "When?"))) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nNoon.\n\nWhen?<|im_end|>\n<|im_start|>assistant\n"
    )
