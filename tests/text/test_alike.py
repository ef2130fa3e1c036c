"""Texts that begin alike are encoded as each is alone, whatever the tokenizer."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from corm_batch.text import alike
from corm_batch.text.alike import encode_alike
from tests.fakes import MODEL

WORDS = [
    "the",
    "Lathom",
    "ledger",
    "über",
    "12345",
    "don't",
    "—",
    "naïve",
    "日本語",
    "🙂",
    "x" * 40,
    "3.14",
    "<tag>",
    "_a_",
]
BLANKS = [" ", " ", " ", " ", "  ", "\n", "\n\n", "\t", ". ", ", "]


def words(seed, count):
    draw = random.Random(seed)
    return "".join(draw.choice(WORDS) + draw.choice(BLANKS) for _ in range(count))


def of_sentencepiece():
    """As Llama 2 has it: no words, but marks in the place of blanks, one more in front of every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([words(9, 400)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def of_bert():
    """Words alone, without blanks."""
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "the", "le", "##dger", "don", "'", "t", "3", "."])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


TOKENIZERS = {"bytes": lambda: AutoTokenizer.from_pretrained(MODEL), "marks": of_sentencepiece, "words": of_bert}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("seed", range(6))
def test_each_is_encoded_as_it_is_alone(tokenizer, seed):
    begin = words(seed, 900)
    ends = ["", "?", " What is it?", "\n\nWho — 12?<|answer|>", words(seed + 100, 30), "x" * 700]
    texts = [begin + end for end in ends]
    assert encode_alike(tokenizer, texts) == [one(tokenizer, text) for text in texts]
    assert encode_alike(tokenizer, [begin]) == [one(tokenizer, begin)]
    assert encode_alike(tokenizer, ["", begin]) == [one(tokenizer, ""), one(tokenizer, begin)]


@pytest.mark.parametrize(
    "begin", ["y" * 5_000, " " * 5_000, "日本" * 2_000, "a b " * 300 + "z" * 4_000, "\n \t" * 2_000]
)
def test_texts_without_words_are_encoded_as_each_is(tokenizer, begin):
    texts = [begin + end for end in ("", "!", " of", "y")]
    assert encode_alike(tokenizer, texts) == [one(tokenizer, text) for text in texts]


def test_what_is_alike_is_encoded_once(monkeypatch):
    tokenizer, read = TOKENIZERS["bytes"](), []

    class Counting:
        is_fast = True

        def __call__(self, texts, **fields):
            read.extend(map(len, texts))
            return tokenizer(texts, **fields)

    begin = words(3, 900)
    encode_alike(Counting(), [f"{begin} Question {number}?" for number in range(16)])
    assert sum(read) < len(begin) + 17 * 3 * alike._BEHIND


def one(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
