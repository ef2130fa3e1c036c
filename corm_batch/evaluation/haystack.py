"""A natural text in which lines are planted: where the facts of a suite lie, and what lies around them."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corm_batch.evaluation.base import Tokenizer
from corm_batch.evaluation.facts import Draw, Facts, Maker

Ids = NDArray[Any]
"""Token ids, of an integer type that holds the vocabulary."""
_MOST_QUESTIONS = 24
_TAIL_TOKENS = 32
"""Left free at the end of a text, for what is asked."""


def common_words(tokenizer: Tokenizer, text: Ids, count: int = 4000) -> list[str]:
    """Plain words of three to eight letters, the most frequent first, from the first two million tokens."""
    words = re.findall(r"\b[a-z]{3,8}\b", tokenizer.decode(text[:2_000_000].tolist()))
    return [word for word, _ in Counter(words).most_common(count)]


class Haystack:
    """Draws pieces of a text and plants lines in them; everything follows from the seed.

    Args:
        tokenizer: of the model.
        text: token ids of natural text, one document after the other.
        words: plain words for made-up names.
        seed: of every draw.
    """

    def __init__(self, tokenizer: Tokenizer, text: Ids, words: Sequence[str], seed: int | str) -> None:
        self.tokenizer, self.text, self.words = tokenizer, text, words
        self.random = random.Random(seed)
        self.newline = self.encode("\n")
        vocabulary = tokenizer.get_vocab()
        self.sentence_ends = np.array([i for piece, i in vocabulary.items() if piece in {".", "!", "?", '."', ".Ċ"}])

    def encode(self, text: str) -> Ids:
        """Token ids without special ones."""
        return np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, self.text.dtype)

    def decode(self, ids: Ids) -> str:
        """A text again; a character that its first or last token holds a part of is left out."""
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=False).strip("\ufffd")

    def slice(self, length: int, text: Ids | None = None) -> Ids:
        """`length` tokens from anywhere in a text, at most all of it; of natural text if none is given."""
        text = self.text if text is None else text
        start = self.random.randrange(max(1, len(text) - length))
        return text[start : start + length]

    def plant(self, lines: Sequence[str], length: int, text: Ids | None = None) -> Ids:
        """About `length` tokens of a slice and the lines in it, in this order, each behind a sentence."""
        encoded = [self.encode(f"\n{line}") for line in lines]
        text = self.slice(max(16, length - sum(map(len, encoded))), text)
        ends = np.flatnonzero(np.isin(text, self.sentence_ends)) + 1
        places = ends if len(ends) else np.array([len(text)])
        cuts = sorted(int(places[self.random.randrange(len(places))]) for _ in encoded)
        pieces = [text[: cuts[0]]]
        for line, cut, following in zip(encoded, cuts, [*cuts[1:], len(text)], strict=True):
            pieces += [line, self.newline, text[cut:following]] if following > cut else [line]
        return np.concatenate(pieces)

    def tokens(self, line: str) -> int:
        """What a planted line takes."""
        return len(self.encode(f"\n{line}"))

    def made(self, makers: Sequence[Maker], length: int) -> Facts:
        """Facts of every maker for a text of about `length` tokens: lines mixed, questions maker by maker."""
        room = max(32, (length - 64) // len(makers))
        draw = Draw(self.random, self.words, room, self.tokens)
        made = [maker(draw) for maker in makers]
        owners = [owner for owner, facts in enumerate(made) for _ in facts.lines]
        self.random.shuffle(owners)
        left = [iter(facts.lines) for facts in made]
        questions = [question for facts in made for question in facts.questions[: _MOST_QUESTIONS // len(made)]]
        return Facts([next(left[owner]) for owner in owners], questions)

    def planted(self, facts: Facts, length: int, text: Ids | None = None) -> tuple[Ids, list[tuple[str, str]]]:
        """A text of about `length` tokens with the facts in it, and their questions in an order of their own."""
        document = self.plant(facts.lines, length - _TAIL_TOKENS, text)
        return document, self.random.sample(facts.questions, len(facts.questions))
