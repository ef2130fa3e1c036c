"""What a spec tells a chat template: it reaches every prompt, and nothing is passed over in silence."""

import pytest
from transformers import AutoTokenizer

from corm_batch.errors import ModelLoadError
from corm_batch.tasks.base import Prompt
from corm_batch.text.chat_template import check_arguments
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

THINKS = (  # as Qwen3's: thinking is on unless it is told otherwise
    "{% for m in messages %}<|question|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|answer|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENS = "{{ messages[0].content }}<|answer|>{% if thinking %}<think>\n{% else %}<think></think>{% endif %}"


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def spelled(tokenizer, **arguments):
    made = PromptTokenizer(tokenizer, template_arguments=arguments)
    return made, made.spelled(made.encode(Prompt("A <|end|> text.", "What is it?")))


def test_thinking_is_turned_off_by_the_template_and_the_answer_is_whole(tokenizer):
    tokenizer.chat_template = THINKS
    on, prompt = spelled(tokenizer)
    assert prompt == "<|question|>A <|end|> text.\n\nWhat is it?<|answer|>"
    assert on.reasoning.part(tokenizer("<think>Hm.</think>\n\n7").input_ids, on.decode) == ("Hm.", "7")
    off, prompt = spelled(tokenizer, enable_thinking=False)
    assert prompt == "<|question|>A <|end|> text.\n\nWhat is it?<|answer|><think>\n\n</think>\n\n"
    assert off.reasoning.part(tokenizer("7").input_ids, off.decode) == ("", "7")
    assert spelled(tokenizer, enable_thinking=True)[1] == spelled(tokenizer)[1]


def test_thinking_that_the_prompt_opens_is_no_part_of_the_answer(tokenizer):
    tokenizer.chat_template = OPENS
    on, prompt = spelled(tokenizer, thinking=True)
    assert prompt.endswith("<think>\n")
    assert on.reasoning.part(tokenizer("Hm.</think>7").input_ids, on.decode) == ("Hm.", "7")
    assert on.reasoning.part(tokenizer("Hm, and no end").input_ids, on.decode) == ("Hm, and no end", None)
    off, _ = spelled(tokenizer, thinking=False)
    assert off.reasoning.part(tokenizer("7").input_ids, off.decode) == ("", "7")


@pytest.mark.parametrize(
    ("template", "given", "problem"),
    [
        (THINKS, {"enable_thinkin": False}, "says nothing of 'enable_thinkin'; it asks for enable_thinking"),
        (THINKS, {"thinking": False}, "says nothing of 'thinking'"),
        (OPENS, {"enable_thinking": False}, "says nothing of 'enable_thinking'$"),
        (THINKS, {"tokenize": True}, "'tokenize' is not for a spec to say"),
        (THINKS, {"messages": []}, "'messages' is not for a spec to say"),
        (THINKS, {"content": "x"}, "says nothing of 'content'"),
        (THINKS, {"think": False}, "says nothing of 'think'; it asks for enable_thinking"),  # a text of it, no name
        (THINKS, {"m": 1}, "says nothing of 'm'"),  # its own
        (THINKS, {"if": 1}, "says nothing of 'if'"),
        (THINKS, {"": 1}, "says nothing of ''"),
        (
            THINKS,
            {"enable_thinking": "false"},
            "enable_thinking is the text 'false', which no template takes for false",
        ),
        ("{% if", {"thinking": True}, "chat template cannot be read"),
        ({"default": THINKS, "rag": OPENS}, {"thinkin": 1}, "says nothing of 'thinkin'"),
        (None, {"enable_thinking": False}, "no chat template"),
    ],
)
def test_an_argument_that_would_change_nothing_is_refused(template, given, problem):
    with pytest.raises(ModelLoadError, match=rf"^model.chat_template_kwargs: .*{problem}"):
        check_arguments(given, template)


def test_none_need_no_template():
    check_arguments({}, None)
    check_arguments({"thinking": True}, {"default": THINKS, "rag": OPENS})
    check_arguments({"level": "high"}, "{% generation %}{{ level }}{%- endgeneration -%}")
