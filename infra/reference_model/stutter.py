"""Answers that repeat themselves, for a model to learn how to go on behind a repetition.

A small model that writes greedily may say a sentence twice, and from then on what it has said speaks for saying it
again. Texts of people have no repetitions, so they do not teach the way out.
"""

from __future__ import annotations

import random
import re

SEAM = re.compile(r"(?<=[.!?;])(?=\s)|(?<=\S)(?=\n)")
"""Between two sentences, items or lines; the whitespace belongs to the second. Tokens do not reach across."""
MOST_SENTENCES, MOST_TIMES = 3, 3
"""Repeated at most: so many sentences, so often."""


def stuttered(answer: str, draw: random.Random) -> tuple[str, str, str]:
    """Cut an answer behind one of its sentences: what is said by then, its end once to three times more, the rest."""
    sentences = SEAM.split(answer)
    end = draw.randint(1, len(sentences))
    start = max(0, end - draw.randint(1, MOST_SENTENCES))
    block = "".join(sentences[start:end])
    if start == 0 and len(sentences) > 1:  # the first sentence starts like the second, which may stand on a new line
        block = sentences[1][: -len(sentences[1].lstrip())] + block.lstrip()
    return "".join(sentences[:end]), block * draw.randint(1, MOST_TIMES), "".join(sentences[end:])
