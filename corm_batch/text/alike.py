"""Encoding texts that begin alike: what they have in common once, and of each what comes behind it.

    text 1   [ ............ the document ........ | its end, a first question  ]
    text 2                  encoded once          [ its end, another question  ]

Tokenizers split a text into words and look at these apart, so that what is encoded behind the end of a word is what it
is in the whole text. That is looked at, not taken for granted: where it is not so for the first of the texts, whole
texts are encoded. The cut is far enough from where they part for no word to reach from one to the other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

_BEHIND = 512
"""Characters behind the cut that the texts still have alike: longer than any word between blanks that is one."""
_WORTH = 2_000
"""Characters alike below which encoding whole texts takes no longer."""
_MOST_LOOKED_AT = 256
"""Tokens before that place among which a word has to begin."""


def encode_alike(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each of some texts; special tokens in them are what they are.

    Args:
        tokenizer: of transformers; one that cannot tell where its tokens begin encodes whole texts.
        texts: one or more.
    """
    encode = partial(tokenizer, add_special_tokens=False, split_special_tokens=False)
    one, other = min(texts), max(texts)  # these begin as all do
    alike = bisect_left(
        range(min(len(one), len(other))), True, key=lambda place: one[: place + 1] != other[: place + 1]
    )
    if len(texts) > 1 and alike >= _WORTH and tokenizer.is_fast:
        first = encode([texts[0]], return_offsets_mapping=True)
        ids, starts = first["input_ids"][0], [start for start, _ in first["offset_mapping"][0]]
        if cut := _last_word(texts[0], starts, alike - _BEHIND):
            tails = encode([text[starts[cut] :] for text in texts])["input_ids"]
            if tails[0] == ids[cut:]:
                return [ids[:cut] + tail for tail in tails]
    whole: list[list[int]] = encode(texts)["input_ids"]
    return whole


def _last_word(text: str, starts: Sequence[int], most: int) -> int:
    """The last token that begins with the blank before a word, at `most` characters into the text at most; 0 for none
    that is near."""
    last = bisect_right(starts, most) - 1
    for place in islice(range(last, 0, -1), _MOST_LOOKED_AT):
        start = starts[place]
        if text[start].isspace() and text[start - 1].isalnum() and text[start + 1 : start + 2].isalnum():
            return place
    return 0
