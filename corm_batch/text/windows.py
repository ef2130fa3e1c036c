"""Cut a text that is too long into pieces that fit, at paragraph or sentence ends where there are any.

Knows nothing of what is asked about the pieces.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

from corm_batch.errors import DocumentError

Fits = Callable[[str], bool]

# tried in this order; a piece ends after the match
_BREAKS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"[.!?。！？][\"')\]”’»]*(?:\s+|(?<=[。！？]))"),
    re.compile(r"\s+"),
)


def cut_windows(text: str, token_ends: Sequence[int], room: int, fits: Fits) -> list[str]:
    """Consecutive pieces that make up `text`.

    Args:
        text: what to cut.
        token_ends: character offset at which each token of `text` ends, ascending.
        room: tokens of text that one piece may hold, as far as is known; `fits` has the last word.
        fits: whether a piece can be asked about.

    Raises:
        DocumentError: not even one character fits.
    """
    pieces, start = [], 0
    while start < len(text):
        end = _longest(text, start, token_ends, room, fits)
        if end < len(text):
            end = _last_break(text, start, end)
        pieces.append(text[start:end])
        start = end
    return pieces


def cut_beginning(text: str, token_ends: Sequence[int], room: int, fits: Fits) -> str:
    """The longest beginning of `text` that fits; arguments and errors as in `cut_windows`."""
    return text[: _longest(text, 0, token_ends, room, fits)] if text else text


def _longest(text: str, start: int, token_ends: Sequence[int], room: int, fits: Fits) -> int:
    """Where the longest piece from `start` that fits ends."""
    first = bisect_right(token_ends, start)
    while room > 0:
        last = first + room - 1
        end = token_ends[last] if last < len(token_ends) - 1 else len(text)
        end = _whole_character(text, start, max(end, start + 1))
        if fits(text[start:end]):
            return end
        # the text alone and the text inside its prompt differ by a few tokens at the seams, seldom by more
        room = min(room, len(token_ends) - first) - max(1, room // 64)
    raise DocumentError("the instruction leaves no room for the text in the model's context")


def _whole_character(text: str, start: int, end: int) -> int:
    """`end` moved back so that no combining mark is parted from its letter."""
    cut = end
    while start + 1 < cut < len(text) and unicodedata.combining(text[cut]):
        cut -= 1
    return cut if cut > start else end


def _last_break(text: str, start: int, end: int) -> int:
    """The best place to end a piece in the last quarter of text[start:end]; `end` when there is none."""
    low = end - (end - start) // 4
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(text, low, end)]
        if ends:
            return ends[-1]
    return end
