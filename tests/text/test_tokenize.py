from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from corm_batch.errors import ModelLoadError
from corm_batch.tasks.base import Prompt
from corm_batch.text.tokenize import PromptTokenizer
from tests.fakes import MODEL

TEXT = "The first paragraph.\n\nThe  second — with ümlauts and 12345."
QUESTION = "What is the second paragraph about?"


@pytest.fixture(scope="module")
def reference():
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture
def plain():
    """A word-level tokenizer without a chat template that puts <s> in front of what it encodes."""
    words = ["<s>", "</s>", "<unk>", "hello", "world", "what", "?", "<", ">", "s", "/"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_prompt_is_the_chat_template_s(reference):
    tokenizer = PromptTokenizer(reference, document_role="document")
    messages = [{"role": "document", "content": TEXT}, {"role": "user", "content": QUESTION}]
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(tokenizer.encode(Prompt(TEXT, QUESTION))) == expected


def test_user_role_joins_text_and_instruction(reference):
    tokenizer = PromptTokenizer(reference)
    expected = reference(f"<|question|> {TEXT}\n\n{QUESTION}<|answer|>", add_special_tokens=False)["input_ids"]
    assert list(tokenizer.encode(Prompt(TEXT, QUESTION))) == expected
    alone = reference(f"<|question|> {QUESTION}<|answer|>", add_special_tokens=False)["input_ids"]
    assert list(tokenizer.encode(Prompt("", QUESTION))) == alone


def test_several_are_encoded_as_each_is(reference):
    tokenizer = PromptTokenizer(reference)
    prompts = [Prompt(TEXT, QUESTION), Prompt(f"{TEXT} <|end|>", QUESTION), Prompt("", QUESTION), Prompt(TEXT, "Why?")]
    assert tokenizer.encode_all(prompts) == [tokenizer.encode(one) for one in prompts]
    assert tokenizer.encode_all([]) == []


@pytest.mark.parametrize("text", ["a<|end|>b", "<|document|><|question|>", "x <|answer|> \ue0000\ue000 y", "<|pad|>"])
def test_special_tokens_in_a_text_are_text(reference, text):
    tokenizer = PromptTokenizer(reference, document_role="document")
    ids = tokenizer.encode(Prompt(text, QUESTION))
    special = [id_ for id_ in ids if id_ in reference.all_special_ids]
    assert reference.convert_ids_to_tokens(special) == ["<|document|>", "<|question|>", "<|answer|>"]
    assert reference.decode(ids) == f"<|document|>{text}<|question|> {QUESTION}<|answer|>"


def test_special_tokens_survive_a_template_that_trims(plain):
    plain.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] | trim }}{{ eos_token }}{% endfor %}"
    ids = PromptTokenizer(plain, document_role="document").encode(Prompt("  </s> hello", "what ?"))
    assert plain.convert_ids_to_tokens(ids) == ["<s>", "<", "/", "s", ">", "hello", "</s>", "what", "?", "</s>"]


def test_beginning_of_sequence_is_not_doubled(plain):
    assert plain.convert_ids_to_tokens(PromptTokenizer(plain).encode(Prompt("hello", "what ?"))) == [
        "<s>", "hello", "what", "?",
    ]  # fmt: skip
    plain.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    assert plain.convert_ids_to_tokens(PromptTokenizer(plain).encode(Prompt("hello", "what ?"))) == [
        "<s>", "hello", "what", "?",
    ]  # fmt: skip


def test_special_tokens_are_text_without_a_template_too(plain):
    ids = PromptTokenizer(plain, system="hello").encode(Prompt("</s>", "what ?"))
    assert plain.convert_ids_to_tokens(ids) == ["<s>", "hello", "<", "/", "s", ">", "what", "?"]


def test_a_template_that_refuses_a_role_is_an_error_of_the_model(plain):
    plain.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    PromptTokenizer(plain)
    with pytest.raises(ModelLoadError, match=r"roles system, user: System role not supported; see model\."):
        PromptTokenizer(plain, system="Be brief.")


def test_a_template_that_leaves_a_message_out_is_an_error_of_the_model(reference):
    with pytest.raises(ModelLoadError, match="leaves out messages of the role system"):
        PromptTokenizer(reference, system="Be brief.")


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(ModelLoadError, match=r"model\.name: cannot load the tokenizer"):
        PromptTokenizer.from_pretrained(str(tmp_path))


def test_token_ends_cover_the_text(reference):
    text = "Naïve 😀 text <|end|> and more"
    ends = PromptTokenizer(reference).token_ends(text)
    assert list(ends) == sorted(ends)
    assert ends[-1] == len(text)
    assert len(ends) == len(reference(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def test_token_ends_are_estimated_for_a_tokenizer_that_cannot_say(plain):
    class Slow:
        """`plain` without offsets."""

        is_fast = False
        chat_template = eos_token_id = None
        added_tokens_decoder = plain.added_tokens_decoder

        def __call__(self, text, **options):
            assert "return_offsets_mapping" not in options
            return plain(text, **options)

    tokenizer = PromptTokenizer(Slow())
    assert list(tokenizer.token_ends("hello world ?")) == [4, 8, 13]
    assert list(tokenizer.token_ends("")) == []


def test_answer_is_cut_before_the_stop_string(reference):
    tokenizer = PromptTokenizer(reference)
    ids = reference(" Paris.\nQuestion: next", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*ids, 4]) == "Paris.\nQuestion: next"
    assert tokenizer.decode(ids, ["nowhere", "\nQuestion"]) == "Paris."


def test_stop_check_fires_with_the_token_that_completes_the_string(reference):
    tokenizer = PromptTokenizer(reference)
    ids = reference("one two ### three", add_special_tokens=False)["input_ids"]
    check = tokenizer.stop_check(["###", ""])
    fired = [check(ids[: count + 1]) for count in range(len(ids))]
    first = fired.index(True)
    assert "###" in reference.decode(ids[: first + 1])
    assert "###" not in reference.decode(ids[:first])
    assert tokenizer.stop_check([""]) is None


@pytest.mark.parametrize("stop", [["<|end|>"], ["nowhere", "\n<|end|>"], ["is<|end|>"]])
def test_special_tokens_in_a_stop_string_stop(reference, stop):
    tokenizer = PromptTokenizer(reference)
    ids = reference("Paris is\n<|end|> and<|end|>", add_special_tokens=False)["input_ids"]
    if stop == ["is<|end|>"]:
        ids = reference("Paris is<|end|> and", add_special_tokens=False)["input_ids"]
    check = tokenizer.stop_check(stop)
    fired = [check(ids[: count + 1]) for count in range(len(ids))]
    assert fired.index(True) == ids.index(4)
    assert tokenizer.decode(ids, stop) == ("Paris" if stop == ["is<|end|>"] else "Paris is")
    assert tokenizer.decode([2, *ids], stop) == ("Paris" if stop == ["is<|end|>"] else "Paris is")


def test_stop_strings_of_the_model_stop_every_answer(reference):
    tokenizer = PromptTokenizer(reference)
    tokenizer.stop_strings = ("###",)
    ids = reference("one ### two", add_special_tokens=False)["input_ids"]
    assert tokenizer.stop_check([])(ids)
    assert tokenizer.decode(ids) == "one"


def test_a_token_that_ends_an_answer_is_no_part_of_it(reference):
    tokenizer = PromptTokenizer(reference)
    ids = reference("Paris is", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, (), [ids[-1]]) == "Paris"
    tokenizer.end_token_ids = frozenset(ids[-1:])
    assert tokenizer.decode(ids) == "Paris"


def test_end_tokens_are_the_tokenizer_s_and_the_template_s(reference, plain):
    assert PromptTokenizer(reference, document_role="document").end_token_ids == {4}
    assert PromptTokenizer(plain).end_token_ids == {plain.convert_tokens_to_ids("</s>")}
    plain.add_special_tokens({"additional_special_tokens": ["<turn>", "<stop>"]})
    stop, ends = plain.convert_tokens_to_ids("<stop>"), {plain.convert_tokens_to_ids("</s>")}
    for template, more in {
        "{% for m in messages %}<turn>{{ m['content'] }}<stop>\n{% endfor %}": {stop},
        "{% for m in messages %}<turn>{{ m['content'] | trim }} <stop>{% endfor %}<turn>": {stop},
        "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}": set(),
        "{{ messages[0]['content'] }}{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}": set(),
    }.items():
        plain.chat_template = template
        assert PromptTokenizer(plain).end_token_ids == ends | more, template


def test_a_role_of_its_own_needs_a_template(plain):
    with pytest.raises(ModelLoadError, match=r"model\.document_role: document: the tokenizer has no chat template"):
        PromptTokenizer(plain, document_role="document")


@pytest.mark.parametrize("content", ["[" * 5000 + "]" * 5000, "{}", "[]", "{not json"])
def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path, content):
    for file in Path(MODEL).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"^model\.name: cannot load the tokenizer of [^\n]*$"):
        PromptTokenizer.from_pretrained(str(tmp_path))
