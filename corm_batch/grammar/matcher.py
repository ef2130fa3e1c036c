"""Matcher: where one answer stands in its grammar, and which tokens may come next, by llguidance.

All that a matcher knows follows from the answer's tokens, so that a step that is taken again, an answer that moves to
host memory or one that starts over needs no word: `follow` brings it to any place. Knows nothing of logits.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from itertools import takewhile
from operator import eq
from typing import TYPE_CHECKING, Any

import numpy as np

from corm_batch.errors import GrammarError
from corm_batch.grammar.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher, LLTokenizer

_MOST_REMEMBERED = 256
"""Grammars: a job has one, or one a field."""

_MOST_LEXERS = 64

_IN_STRING = r'[^"\\\x00-\x1F\x7F]'
_SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(_IN_STRING + f"{{1,{most}}}" for most in (1, 2, 4, 7, 10, 15, 30)),
    _IN_STRING + "+",
)
"""Kinds of tokens that the library allows or refuses all at once where it can: its own, and more lengths of what stands
in a string. Without these a mask near the end of a string of bounded length takes three times as long, and all the rows
of a batch wait for it."""

_SAMPLE = '{"a b": ["é", 12]}'
"""What a tokenizer's tokens are tried on: one whose bytes were read wrongly would hold answers to another form."""


class Matchers:
    """Makes matchers for one model; the library and the tokenizer are loaded for the first.

    The library's copies of a state share its lexer, and a lock on that: what one has built of it serves all, but no two
    of them fill their masks at one time. So there are several lexers of a grammar, by turns, and masks are asked for
    lexer by lexer.

    Args:
        load_tokenizer: makes the model's transformers tokenizer; may raise anything.
        vocab_size: of the model, V: tokens beyond the tokenizer's are never allowed.
        end_token_ids: end an answer.
        num_lexers: of a grammar, at most; None: two for each of the host's cores, which then find some to do.
    """

    def __init__(
        self,
        load_tokenizer: Callable[[], Any],
        vocab_size: int,
        end_token_ids: Collection[int],
        num_lexers: int | None = None,
    ) -> None:
        self._load_tokenizer, self._vocab_size, self._ends = load_tokenizer, vocab_size, frozenset(end_token_ids)
        self._num_lexers = num_lexers or min(_MOST_LEXERS, 2 * (os.cpu_count() or 1))
        self._tokenizer: LLTokenizer | None = None
        self._beginnings: dict[Grammar, deque[tuple[int, LLMatcher]]] = {}  # numbered; those at the left are next

    def matcher(self, grammar: Grammar, stop_token_ids: Iterable[int] = ()) -> Matcher:
        """One for an answer that ends with an end token of the model, or with one of `stop_token_ids`.

        Raises:
            GrammarError: the grammar, or the model's tokenizer, cannot be used.
        """
        beginnings = self._beginnings.get(grammar, deque())
        if len(beginnings) < self._num_lexers:
            beginnings.appendleft((len(beginnings), self._begin(grammar)))
        if grammar not in self._beginnings:
            if len(self._beginnings) == _MOST_REMEMBERED:
                del self._beginnings[next(iter(self._beginnings))]
            self._beginnings[grammar] = beginnings
        number, beginning = beginnings[0]
        beginnings.rotate(-1)
        assert self._tokenizer is not None
        ends = self._ends.union(stop_token_ids)
        return Matcher(beginning.deep_copy(), self._tokenizer, ends, grammar.after, number)

    def _begin(self, grammar: Grammar) -> LLMatcher:
        """What stands before the first token of every answer."""
        from llguidance import LLMatcher

        compiled = grammar.compiled()
        if self._tokenizer is None:
            self._tokenizer = self._read_tokenizer()
        beginning = LLMatcher(self._tokenizer, compiled, log_level=0)
        if beginning.is_error():
            raise GrammarError(f"no grammar can be made of this {grammar.kind}: {beginning.get_error()[:300]}")
        return beginning

    def _read_tokenizer(self) -> LLTokenizer:
        """The bytes of every token, as the library reads them out of a tokenizer."""
        from llguidance.hf import from_tokenizer

        try:
            tokenizer = self._load_tokenizer()
            size = max(len(tokenizer), self._vocab_size)  # a model may have more tokens, or fewer
            read = from_tokenizer(tokenizer, n_vocab=size, eos_token=sorted(self._ends) or None, slices=list(_SLICES))
            ids = tokenizer.encode(_SAMPLE, add_special_tokens=False)
            ours, theirs = tokenizer.decode(ids, clean_up_tokenization_spaces=False), read.decode_bytes(ids).decode()
            if ours.strip() != theirs.strip():  # some write a space in front
                raise ValueError(f"its tokens of {ours!r} are read as {theirs!r}")
        except Exception as error:  # somebody else's files can fail in any way
            raise GrammarError(f"answers cannot be held to a form with this model's tokenizer: {error}") from error
        return read


class Matcher:
    """One answer's place in its grammar.

    An answer is free before the grammar begins (see `Grammar.after`), behind the token that ends it, and behind one
    that the grammar does not allow, which only an answer to score can have.

    Args:
        state: of the library, before the first token.
        tokenizer: of the library.
        ends: token ids that end the answer: allowed exactly where it is whole.
        after: the mark behind which the grammar begins; "" for none.
        lexer: which of its grammar's.
    """

    def __init__(
        self, state: LLMatcher, tokenizer: LLTokenizer, ends: frozenset[int], after: str = "", lexer: int = 0
    ) -> None:
        self._state, self._tokenizer, self._ends, self._after, self.lexer = state, tokenizer, ends, after, lexer
        self._own_ends = ends.difference(tokenizer.eos_tokens)  # of which the library does not know
        self._tokens: list[int] = []  # followed so far
        self._start = 0 if after == "" else None  # where the grammar begins among these
        self._num_taken = 0  # of those behind the start, by the state
        self._whole_at: int | None = None  # tokens after which nothing but an end could follow

    @property
    def problem(self) -> str:
        """Why the library gave up; "" where it did not."""
        return self._state.get_error()

    def follow(self, tokens: Sequence[int]) -> None:
        """Come to the place behind exactly these tokens, forwards or back."""
        same = len(self._tokens)
        if list(tokens[:same]) != self._tokens:
            same = sum(1 for _ in takewhile(bool, map(eq, self._tokens, tokens)))
            self._back_to(same)
        for token in tokens[same:]:
            self.take(int(token))

    def take(self, token: int) -> None:
        """Go on by one token."""
        if self._notes(token) and self._state.try_consume_tokens([token]):
            self._has_taken()

    def _notes(self, token: int) -> bool:
        """Note the next token of the answer; whether it is one for the grammar."""
        was_free = self.is_free
        self._tokens.append(token)
        if self._start is None:
            newest = self._tokens[-len(self._after.encode()) :]
            if self._after in self._tokenizer.decode_str(newest):
                self._start = len(self._tokens)
            return False
        return not was_free and token not in self._ends

    def _has_taken(self) -> None:
        """The state went on by the token last noted."""
        self._num_taken += 1
        if self._state.is_stopped() and self._state.is_accepting():
            self._whole_at = len(self._tokens)

    def is_whole_at(self, num_tokens: int) -> bool:
        """Whether nothing can follow the first `num_tokens` of the tokens followed: the answer is at its end."""
        return self._whole_at == num_tokens

    @property
    def is_free(self) -> bool:
        """Whether the grammar says nothing of the next token."""
        return self._start is None or self._start + self._num_taken < len(self._tokens)

    @property
    def num_words(self) -> int:
        """W, 32-bit words of a mask over all tokens."""
        return -(-self._tokenizer.vocab_size // 32)

    def _back_to(self, num_tokens: int) -> None:
        """Forget all but the first tokens."""
        taken = 0 if self._start is None else max(0, min(self._num_taken, num_tokens - self._start))
        self._state.rollback(self._num_taken - taken)
        self._num_taken = taken
        if self._after and self._start is not None and num_tokens < self._start:
            self._start = None
        if self._whole_at is not None and num_tokens < self._whole_at:
            self._whole_at = None
        del self._tokens[num_tokens:]

    def _settle(self, mask_W: np.ndarray) -> None:
        """Put into the library's mask what it does not know: which tokens end this answer, and that all is free."""
        if self.is_free:
            mask_W[:] = -1
        elif self._state.is_error():
            mask_W[:] = 0
        elif self._own_ends:
            words, whole = mask_W.view(np.uint32), self._state.is_accepting()
            for token in self._own_ends:
                bit = np.uint32(1 << (token % 32))
                words[token // 32] = words[token // 32] | bit if whole else words[token // 32] & ~bit


def fill(matchers: Sequence[Matcher], mask_MW: np.ndarray) -> None:
    """Say which tokens may come next in some answers, no two of them the same, side by side on the host's cores.

    Args:
        matchers: M of one model, each at its place; quickest where those of one lexer are neighbours.
        mask_MW: int32; bit t % 32 of word t // 32 says whether token t may come. None may where the library gave up.
    """
    each = list(enumerate(matchers))
    asked = [(one._state, row) for row, one in each if not (one.is_free or one._state.is_error())]
    if asked:
        _executor().unsafe_compute_mask_ptr(asked, mask_MW.ctypes.data, mask_MW.strides[0], len(mask_MW))
    for row, one in each:
        if one.is_free or one._own_ends or one._state.is_error():
            one._settle(mask_MW[row])


def take_all(steps: Sequence[tuple[Matcher, int]]) -> None:
    """Have answers go on by one token each, side by side on the host's cores.

    Args:
        steps: matchers of one model, no two of them the same, each with a token that its mask allowed: behind any other
            the library could not go back. As for `fill`, quickest where those of one lexer are neighbours.
    """
    asked = [(one, token) for one, token in steps if one._notes(token)]
    if asked:
        went_on = _executor().consume_token_par([(one._state, token) for one, token in asked])
        for (one, _), has_gone in zip(asked, went_on, strict=True):
            if has_gone:
                one._has_taken()


@cache
def _executor() -> LLExecutor:
    """The library's threads."""
    from llguidance import LLExecutor

    return LLExecutor()
