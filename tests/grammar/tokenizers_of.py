"""Tokenizers as models have them, small: what each token writes is known, so that a mask can be told by brute force."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<|end|>")
ADDED = "null"  # an added token that is plain text
WORDS = ('{"', '": ', "ye", "yes", "no", " ", " a", '"}', "ä", "12", ', "', "0)")


def byte_letters():
    """The letter by which byte-level tokenizers write each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def byte_level():
    """A byte-level tokenizer, as GPT-2's, Llama 3's and SmolLM2's; what each token writes, None for special ones."""
    letters = byte_letters()
    texts = [bytes([byte]) for byte in range(256)] + [word.encode() for word in WORDS if len(word.encode()) > 1]
    names = ["".join(letters[byte] for byte in text) for text in texts]
    inner = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(names)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return _finished(inner, texts)


def byte_fallback():
    """A tokenizer made from sentencepiece, as Llama 2's and Gemma's: blanks are ▁, unknown characters are bytes."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *(word.replace(" ", "▁") for word in WORDS)]
    texts = [None, *(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS)]
    vocab = {name: token for token, name in enumerate(names)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(inner, texts, unk_token="<unk>")


def _finished(inner, texts, **names):
    """With special tokens and an added one."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<|end|>", **names)
    tokenizer.add_tokens([AddedToken(ADDED, special=False, normalized=False)])
    writes = [*texts, *[None] * (len(tokenizer) - len(texts))]
    writes[tokenizer.convert_tokens_to_ids(ADDED)] = ADDED.encode()
    return tokenizer, writes
