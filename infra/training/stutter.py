"""Answers that repeat themselves, for a model to learn not to, and how to go on behind a repetition.

A small model that writes greedily may say a sentence twice, and from then on what it has said speaks for saying it
again. Texts of people have no repetitions, so they do not teach the way out. Made-up ones do, as in Learning to Break
the Loop (Xu et al. 2022); they become less likely by the loss of Neural Text Generation with Unlikelihood Training
(Welleck et al. 2020).
"""

from __future__ import annotations

import random
import re

SEAM = re.compile(r"(?<=[.!?;])(?=\s)|(?<=\S)(?=\n)")
"""Between two sentences, items or lines; the whitespace belongs to the second. Tokens do not reach across."""
MOST_SENTENCES, MOST_TIMES = 3, 3
"""Repeated at most: so many sentences, so often."""


def sentences(text: str) -> list[str]:
    """Its sentences, items or lines, which together are the text."""
    return SEAM.split(text)


def stuttered(answer: str, draw: random.Random) -> tuple[str, str, str]:
    """Cut an answer behind one of its sentences: what is said by then, its end once to three times more, the rest."""
    said = sentences(answer)
    end = draw.randint(1, len(said))
    start = max(0, end - draw.randint(1, MOST_SENTENCES))
    block = "".join(said[start:end])
    if start == 0 and len(said) > 1:  # the first sentence starts like the second, which may stand on a new line
        block = said[1][: -len(said[1].lstrip())] + block.lstrip()
    return "".join(said[:end]), block * draw.randint(1, MOST_TIMES), "".join(said[end:])
