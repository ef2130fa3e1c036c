"""How much an answer repeats itself: a model caught in a loop says the same few words until its tokens are used up.

The measure is the share of duplicate n-grams ("seq-rep-n", Welleck et al. 2020, arXiv 1908.04319). Knows nothing of
what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence

LOOPING = 0.5  # from this share on an answer counts as looping; prose stays below 0.1, lists of like records below 0.4
_N = 4
_TAIL = 128  # tokens: a loop that begins late is small in the whole, but all of the end


def repetition(token_ids: Sequence[int]) -> float:
    """The share (0 to 1) of 4-grams of tokens that stood before: of the whole answer or of its end, the larger."""
    return max(_duplicates(token_ids), _duplicates(token_ids[-_TAIL:]))


def _duplicates(token_ids: Sequence[int]) -> float:
    """1 - distinct n-grams / n-grams."""
    count = len(token_ids) - _N + 1
    if count < 1:
        return 0.0
    return 1.0 - len(set(zip(*(token_ids[start:] for start in range(_N)), strict=False))) / count
