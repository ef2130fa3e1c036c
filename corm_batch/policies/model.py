"""Model: what a policy may know of the model that it is to serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Vocabulary(NamedTuple):
    """Token ids of two kinds.

    Attributes:
        special: those of the tokenizer that stand for no text.
        punctuation: those that stand for signs alone, blanks aside.
    """

    special: tuple[int, ...]
    punctuation: tuple[int, ...]


class Turn(NamedTuple):
    """What a user says next, behind a prompt that an answer was to follow.

    Attributes:
        say: token ids of the end of that answer, which has no word, the beginning of the turn and these words.
        closing: token ids behind them: an answer begins.
    """

    say: Callable[[str], tuple[int, ...]]
    closing: tuple[int, ...]


class Model(NamedTuple):
    """What a policy may know of the model that it is to serve.

    Attributes:
        num_layers: of it, those with entries of their own: a policy knows these alone, as 0, 1, ...
        num_kv_heads: of a layer, over all ranks.
        own_heads: those of them that the policy will be asked about.
        vocabulary: None where the policy's needs do not name it.
        turn: likewise.
        own_layers: which of the model's layers these are; None: all.
    """

    num_layers: int
    num_kv_heads: int
    own_heads: slice = slice(None)
    vocabulary: Vocabulary | None = None
    turn: Turn | None = None
    own_layers: tuple[int, ...] | None = None
