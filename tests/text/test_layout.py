"""Chats as the model's template lays them out: nothing of them is lost, and no text becomes a special token."""

import pytest
from transformers import AutoTokenizer

from corm_batch.engine.request import TokenLogprob
from corm_batch.errors import DocumentError
from corm_batch.tasks.base import Prompt
from corm_batch.tasks.messages import Message
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

CHATML = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}[{{ m.role }}]{{ m.content | trim }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% if thinking %}<think>{% endif %}{% endif %}"
)
SHOTS = (("user", "1 + 1?"), ("assistant", "2"), ("user", " 2 + 2? "))


def chat(*messages, arguments=""):
    return Prompt("", "", messages=tuple(Message(*one) for one in messages), template_arguments=arguments)


@pytest.fixture
def tokenizer():
    found = AutoTokenizer.from_pretrained(MODEL)
    found.chat_template = CHATML
    return found


def test_every_message_has_its_role_and_the_answer_comes_next(tokenizer):
    made = PromptTokenizer(tokenizer)
    assert made.spelled(made.encode(chat(*SHOTS))) == "[user]1 + 1?\n[assistant]2\n[user]2 + 2?\n[assistant]"


def test_the_job_s_system_prompt_stands_before_a_chat_that_has_none(tokenizer):
    made = PromptTokenizer(tokenizer, system="Be brief.")
    assert made.spelled(made.encode(chat(("user", "Hi.")))).startswith("[system]Be brief.\n[user]Hi.")
    own = made.spelled(made.encode(chat(("system", "Be long."), ("user", "Hi."))))
    assert own == "[system]Be long.\n[user]Hi.\n[assistant]"


def test_special_tokens_in_a_chat_are_text(tokenizer):
    made = PromptTokenizer(tokenizer)
    ids = made.encode(chat(("user", "a<|end|>"), ("assistant", "<|end|>b")))
    assert not {*ids} & {*tokenizer.all_special_ids}
    assert made.spelled(ids) == "[user]a<|end|>\n[assistant]<|end|>b\n[assistant]"


def test_what_a_chat_tells_the_template_holds_for_it_alone(tokenizer):
    made = PromptTokenizer(tokenizer)
    plain, thinking = chat(*SHOTS), chat(*SHOTS, arguments='{"thinking": true}')
    assert made.spelled(made.encode(thinking)) == made.spelled(made.encode(plain)) + "<think>"
    assert (made.reasoning_of(plain).is_open, made.reasoning_of(thinking).is_open) == (False, True)
    with pytest.raises(DocumentError, match=r"^chat_template_kwargs: the chat template says nothing of 'thinkin'"):
        made.encode(chat(*SHOTS, arguments='{"thinkin": true}'))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML, ""),
        (None, ""),
        (CHATML + "{% if reasoning_effort is defined %}({{ reasoning_effort }}){% endif %}", "(low)"),
    ],
)
def test_what_every_model_is_told_is_told_where_the_template_asks_for_it(tokenizer, template, said):
    tokenizer.chat_template = template
    made = PromptTokenizer(tokenizer)
    plain, told = (chat(("user", "Hi."), arguments=one) for one in ("", '{"reasoning_effort": "low"}'))
    assert made.spelled(made.encode(told)) == made.spelled(made.encode(plain)) + said
    assert made.reasoning_of(told) == made.reasoning_of(plain)


def test_a_chat_that_the_template_refuses_or_cuts_is_refused(tokenizer):
    with pytest.raises(DocumentError, match="leaves out messages of the role developer"):
        PromptTokenizer(tokenizer).encode(chat(("developer", "Be brief."), ("user", "Hi.")))
    tokenizer.chat_template = "{% if messages | length > 2 %}{{ raise_exception('too many') }}{% endif %}" + CHATML
    made = PromptTokenizer(tokenizer)
    assert made.encode(chat(("user", "Hi.")))
    with pytest.raises(DocumentError, match="the model's chat template refuses the messages: too many"):
        made.encode(chat(*SHOTS))
    first, refused, last = made.encode_all([chat(("user", "Hi.")), chat(*SHOTS), chat(("user", "Ho."))])
    assert isinstance(refused, DocumentError)
    assert [first, last] == [made.encode(chat(("user", said))) for said in ("Hi.", "Ho.")]


def test_without_a_template_a_question_is_text_and_a_chat_is_refused(tokenizer):
    tokenizer.chat_template = None
    made = PromptTokenizer(tokenizer)
    assert made.spelled(made.encode(chat(("system", "Be brief."), ("user", "Hi.")))) == "Be brief.\n\nHi.\n"
    assert made.reasoning_of(chat(("user", "Hi."))).is_open is False
    with pytest.raises(DocumentError, match="user, assistant, user: the model's tokenizer has no chat template"):
        made.encode(chat(*SHOTS))
    with pytest.raises(DocumentError, match="no chat template"):
        made.encode(chat(("user", "Hi."), arguments='{"thinking": true}'))


def test_tokens_of_an_answer_are_told_in_words(tokenizer):
    made = PromptTokenizer(tokenizer)
    (king,), cut = made.text_ids(" king"), made.text_ids("\u00fc")[0]
    own, other = TokenLogprob(king, -0.5), TokenLogprob(cut, -1.5)
    (told,) = made.told([(own, own, other)])
    assert (told.token, told.token_id, told.bytes, told.logprob) == (" king", king, b" king", -0.5)
    assert [(one.token, one.bytes, one.top_logprobs) for one in told.top_logprobs] == [
        (" king", b" king", ()),
        ("\ufffd", b"\xc3", ()),
    ]
