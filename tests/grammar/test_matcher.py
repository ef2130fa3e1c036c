"""Masks against brute force over the vocabulary, for every kind of tokenizer, wherever an answer may stand."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from tokenizers import decoders
from transformers import AutoTokenizer

from corm_batch.errors import GrammarError
from corm_batch.grammar import matcher as matcher_module
from corm_batch.grammar.definition import allowed
from corm_batch.grammar.grammar import Grammar
from corm_batch.grammar.matcher import Matchers, fill, take_all
from tests.conftest import REFERENCE_MODEL
from tests.grammar.tokenizers_of import byte_fallback, byte_letters, byte_level

SCHEMA = {
    "$defs": {"Answer": {"enum": ["yes", "no", "ä\"", None]}},
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/Answer"},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 9, "maximum": 12}, "maxItems": 1},
        "c": {"anyOf": [{"type": "string", "pattern": "^[0-3]0\\)$"}, {"type": "null"}]},
    },
    "required": ["a", "c"],
    "additionalProperties": False,
}  # fmt: skip


def answers_to_schema():
    """Everything the schema allows, on one line."""
    lists = [[], *([n] for n in range(9, 13))]
    for a, b, c in itertools.product(
        ("yes", "no", 'ä"', None), (None, *lists), (*(f"{digit}0)" for digit in range(4)), None)
    ):
        record = {"a": a, "b": b, "c": c} if b is not None else {"a": a, "c": c}
        yield json.dumps(record, ensure_ascii=False).encode()


PAIRS = ("aa", "ao", "oa", "oo")
FORMS = {
    "schema": (Grammar.of_schema(SCHEMA), set(answers_to_schema())),
    "choices": (Grammar.of_choices(["yes", "no", "no a", "ä (1)\n"]), {b"yes", b"no", b"no a", "ä (1)\n".encode()}),
    "regex": (Grammar.of_regex("(ye|n)[ao]{1,2}"), {(a + b).encode() for a in ("ye", "n") for b in ("a", "o", *PAIRS)}),
}  # fmt: skip


def masks(matcher, num_tokens):
    """Token ids that may come next."""
    mask = np.zeros((1, matcher.num_words), np.int32)
    fill([matcher], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert not bits[num_tokens:].any() or matcher.is_free
    return set(np.flatnonzero(bits).tolist())


def assert_allows(found, may, answers, written):
    """What the definition allows; where only one byte can follow, the tokens by which the tokenizer writes it."""
    following = {answer[len(written) : len(written) + 1] for answer in answers if answer.startswith(written)}
    assert found == may or (len(following) == 1 and found and found < may)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_masks_are_those_of_the_definition(make, form):
    tokenizer, writes = make()
    grammar, answers = FORMS[form]
    end, stop = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("ye")
    matcher = Matchers(lambda: tokenizer, len(tokenizer) + 70, {end}).matcher(grammar, [stop])
    rng = np.random.default_rng(1)
    for _ in range(12):
        written, tokens = b"", []
        while (may := allowed(answers, written, writes, {end, stop})) - {end, stop}:
            matcher.follow(tokens)
            assert_allows(masks(matcher, len(writes)), may, answers, written)
            tokens.append(int(rng.choice(sorted(may - {end, stop}))))
            written += writes[tokens[-1]]
        matcher.follow(tokens)
        assert written in answers
        assert matcher.is_whole_at(len(tokens))
        assert masks(matcher, len(writes)) == {end, stop}


def test_a_place_follows_from_the_tokens_alone():
    tokenizer, writes = byte_level()
    matcher = Matchers(lambda: tokenizer, len(tokenizer), {tokenizer.eos_token_id}).matcher(FORMS["regex"][0])
    end, word = tokenizer.eos_token_id, [writes.index(text) for text in (b"ye", b"a", b"o")]
    seen = {}
    for size in (0, 1, 2, 3):
        matcher.follow(word[:size])
        seen[size] = masks(matcher, len(writes)), matcher.is_whole_at(size)
    for size in (1, 3, 0, 2, 2, 3, 1):
        matcher.follow(word[:size])
        assert (masks(matcher, len(writes)), matcher.is_whole_at(size)) == seen[size]
    for junk in ([word[0], 3], [*word[:2], end], [*word, 7, 8], [word[0], 3, 3]):
        matcher.follow(junk)
        assert matcher.is_free  # behind an end, and behind what the grammar does not allow
        matcher.follow(word[:2])
        assert masks(matcher, len(writes)) == seen[2][0]


def test_answers_side_by_side_have_masks_of_their_own():
    tokenizer, writes = byte_level()
    matchers = Matchers(lambda: tokenizer, len(tokenizer), {tokenizer.eos_token_id})
    several = [matchers.matcher(grammar) for grammar, _ in FORMS.values()]
    several[1].follow([writes.index(b"no")])
    several[2].follow([0])  # not allowed: free from here
    mask = np.zeros((3, several[0].num_words), np.int32)
    fill(several, mask)
    for matcher, mask_W in zip(several, mask, strict=True):
        alone = np.zeros((1, len(mask_W)), np.int32)
        fill([matcher], alone)
        assert (alone[0] == mask_W).all()
    assert (mask[2] == -1).all()


def test_answers_that_go_on_side_by_side_stand_where_each_would_alone():
    tokenizer, writes = byte_level()
    end = tokenizer.eos_token_id
    matchers = Matchers(lambda: tokenizer, len(tokenizer), {end}, num_lexers=2)
    grammars = [grammar for grammar, _ in FORMS.values()] * 2
    together, alone = ([matchers.matcher(grammar) for grammar in grammars] for _ in range(2))
    chance, ended = np.random.default_rng(2), 0
    for _ in range(8):
        tokens = [int(chance.choice(sorted(masks(one, len(writes))))) for one in alone]
        take_all(list(zip(together, tokens, strict=True)))
        for one, token in zip(alone, tokens, strict=True):
            one.take(token)
        ended += tokens.count(end)
        for one, other in zip(together, alone, strict=True):
            assert masks(one, len(writes)) == masks(other, len(writes))
            assert [one.is_whole_at(size) for size in range(9)] == [other.is_whole_at(size) for size in range(9)]
            assert one.is_free == other.is_free
            assert one.problem == ""
    assert ended
    for one in together:  # and back
        one.follow([])
    take_all([])
    assert [masks(one, len(writes)) for one in together] == [
        masks(matchers.matcher(grammar), len(writes)) for grammar in grammars
    ]


def test_answers_take_turns_with_lexers_and_are_asked_for_in_their_order(monkeypatch):
    tokenizer, writes = byte_level()
    matchers, asked = Matchers(lambda: tokenizer, len(tokenizer), {tokenizer.eos_token_id}, num_lexers=3), []
    several = [matchers.matcher(FORMS["choices"][0]) for _ in range(7)]
    assert [one.lexer for one in several] == [0, 1, 2, 0, 1, 2, 0]
    executor = matcher_module._executor()

    class Recording:
        def unsafe_compute_mask_ptr(self, states, *where):
            asked.append([row for _, row in states])
            executor.unsafe_compute_mask_ptr(states, *where)

    monkeypatch.setattr(matcher_module, "_executor", Recording)
    several[3].follow([writes.index(b"no")])
    mask = np.zeros((7, several[0].num_words), np.int32)
    fill(several, mask)
    assert asked == [[*range(7)]]
    assert [set(np.flatnonzero((mask != row).any(axis=1))) for row in (mask[0], mask[3])] == [{3}, {0, 1, 2, 4, 5, 6}]


def test_the_form_begins_behind_the_mark_that_ends_reasoning():
    tokenizer, writes = byte_level()
    grammar = Grammar("choices", '["yes"]', after="o a")
    matcher = Matchers(lambda: tokenizer, len(tokenizer), {tokenizer.eos_token_id}).matcher(grammar)
    thought = [writes.index(text) for text in (b"ye", b"no", b" a")]
    for size in range(3):
        matcher.follow(thought[:size])
        assert matcher.is_free
    matcher.follow(thought)
    assert_allows(
        masks(matcher, len(writes)), {writes.index(b"y"), writes.index(b"ye"), writes.index(b"yes")}, {b"yes"}, b""
    )
    matcher.follow(thought[:2])
    assert matcher.is_free


def test_masks_of_the_reference_models_vocabulary():
    assert_masks_of(AutoTokenizer.from_pretrained(REFERENCE_MODEL))


@pytest.mark.real_model
def test_masks_of_a_released_models_vocabulary(released_model):
    assert_masks_of(AutoTokenizer.from_pretrained(released_model))


def assert_masks_of(tokenizer):
    """A byte-level tokenizer's masks, at some places of a form, are those of the definition."""
    bytes_of = {letter: byte for byte, letter in byte_letters().items()}
    writes = [None] * len(tokenizer)
    for name, token in tokenizer.get_vocab().items():
        if token not in tokenizer.added_tokens_decoder:
            writes[token] = bytes(bytes_of[letter] for letter in name)
    matchers = Matchers(lambda: tokenizer, len(tokenizer) + 3, {tokenizer.eos_token_id})
    for grammar, answers in FORMS.values():
        matcher = matchers.matcher(grammar)
        for answer in sorted(answers)[:: max(1, len(answers) // 3)]:
            ids = tokenizer(answer.decode(), add_special_tokens=False)["input_ids"]
            for size in range(0, len(ids) + 1, 4):
                written = b"".join(writes[token] for token in ids[:size])
                matcher.follow(ids[:size])
                may = allowed(answers, written, writes, {tokenizer.eos_token_id})
                assert_allows(masks(matcher, len(writes)), may, answers, written)


def test_a_tokenizer_that_cannot_be_read_is_named():
    def fail():
        raise OSError("no tokenizer here")

    with pytest.raises(GrammarError, match="no tokenizer here"):
        Matchers(fail, 10, {1}).matcher(FORMS["regex"][0])
    with pytest.raises(GrammarError, match="fast"):
        Matchers(lambda: [], 10, {1}).matcher(FORMS["regex"][0])


def test_a_tokenizer_whose_tokens_are_read_as_other_bytes_is_refused():
    """As transformers 5.17 makes one of a GGUF file: letters stand for bytes, and a decoder says that they do not."""
    tokenizer, _ = byte_level()
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.ByteLevel()])
    with pytest.raises(GrammarError, match="are read as"):
        Matchers(lambda: tokenizer, len(tokenizer), {1}).matcher(FORMS["choices"][0])


@pytest.mark.parametrize("most", [1, 3, 8, 33])
def test_masks_are_the_same_without_kinds_of_tokens(most, monkeypatch):
    """Through strings of bounded length, up to their last character and beyond."""
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE_MODEL)
    field = {"type": "string", "maxLength": most}
    grammar = Grammar.of_schema({"type": "array", "items": field, "maxItems": 5})
    size, chance = len(tokenizer), np.random.default_rng(most)
    one = Matchers(lambda: tokenizer, size, {tokenizer.eos_token_id}).matcher(grammar)
    monkeypatch.setattr(matcher_module, "_SLICES", ())
    other = Matchers(lambda: tokenizer, size, {tokenizer.eos_token_id}).matcher(grammar)
    for _ in range(60):
        tokens = masks(one, size)
        assert tokens == masks(other, size)
        if not tokens - {tokenizer.eos_token_id}:
            return
        token = int(chance.choice(sorted(tokens - {tokenizer.eos_token_id})))
        one.take(token)
        other.take(token)
