"""Needs: what a policy wants to see, said beforehand so that nothing else has to be there."""

from __future__ import annotations

from typing import NamedTuple

from corm_batch.ops.reduction import Reduction


class Needs(NamedTuple):
    """What a policy wants to see of entries when it ranks them, and of prompts when these are read.

    Attributes:
        keys: the keys themselves.
        reduction: how recent queries vote, and what is gathered of their weights; None when attention is not looked at.
        prompt: `observe` is called with the queries of every pass over a prompt, or over a chunk of one.
        extra_passes: a prompt is read under a full cache; then the model reads what `extra_passes` says,
            `observe_extra` is called with the queries of that, and only then do entries leave.
        rotary: it is told how to undo rotary positions; a model in which that is not known is refused.
        vocabulary: `for_model` is told which tokens are special or punctuation; a model without a tokenizer is refused.
        turn: `for_model` is told how a user's next words are put; likewise.
    """

    keys: bool = False
    reduction: Reduction | None = None
    prompt: bool = False
    extra_passes: bool = False
    rotary: bool = False
    vocabulary: bool = False
    turn: bool = False
