"""What the authors of a text said of it themselves: its abstract or summary, and the titles of its sections.

Both are found by their headings, Markdown's or underlined ones, and taken out of the text they tell of; so a model that
learns to give them has to read. A section that ends in a summary is the text before it, a paper that starts with an
abstract the text behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

HEADING = re.compile(r"^(#{1,4}) +(.+?) *#*$", re.MULTILINE)
UNDERLINED = re.compile(r"^(\S.{2,70})\n[=~-]{3,}$", re.MULTILINE)
PARTS = re.compile(r"^(?=# )", re.MULTILINE)
NUMBERING = re.compile(
    r"^(?:(?:chapter|chap|book|part|section|letter|no)\b\.? *)?(?:[\dIVXLC]+\b[\d.]*)?[\s.:)–—-]*", re.I
)
MARKUP = re.compile(r"```|^\s*(?:[*+|>-]|\d+[.)]) ", re.MULTILINE)
SUMMARIES = {"summary", "section summary", "chapter summary", "abstract", "simple summary"}
EARLY = 2_500
"""A summary that starts within so many characters of its part is of what follows it."""
LONGEST, SHORTEST = 20_000, 1_500
"""Characters of a text to summarise; a longer one is cut."""
TITLED = 700, 5_000
"""Characters of a text to find a title for."""
COMMON = 3
"""A title that so many sections have says little of any of them."""


class Pair(NamedTuple):
    """A text, what is asked for, and what its author said; the columns of human-written instructions."""

    task: str
    document: str
    prompt: str
    answer: str


def sections(part: str) -> Iterator[tuple[str, int, int, int]]:
    """Title, start of the heading, start and end of what stands below it up to the next one; the last comes first."""
    end = len(part)
    for heading in reversed(list(HEADING.finditer(part))):
        yield heading[2].strip(), heading.start(), heading.end(), end
        end = heading.start()


def cut(text: str, longest: int) -> str:
    """Whole paragraphs from the beginning, of at most so many characters where they are not longer alone."""
    text = text.strip()
    end = text.rfind("\n\n", 0, longest) if len(text) > longest else len(text)
    return text[: end if end > 0 else longest].strip()


def summaries(text: str) -> Iterator[Pair]:
    """Every summary of plain prose of 15 to 200 words, with the text that it is of."""
    for part in PARTS.split(text):
        for title, heading, start, end in sections(part):
            if title.lower() not in SUMMARIES or MARKUP.search(part, start, end):
                continue
            said = " ".join(part[start:end].split())
            document = cut(part[end:] if heading < EARLY else part[max(0, heading - LONGEST) : heading], LONGEST)
            if 15 <= len(said.split()) <= 200 and len(document) >= SHORTEST:
                yield Pair("abstract", document, "Summarize the text.", said)


def titles(text: str) -> Iterator[Pair]:
    """Every title of three to twelve words, most of which its section takes up, with that section."""
    for title, _, start, end in sections(text):
        words = NUMBERING.sub("", title).strip(" .*_`").split()
        body = cut(text[start:end], TITLED[1])
        name = " ".join(words)
        told = [word for word in re.findall(r"\w{4,}", name.lower()) if word in body.lower()]
        if 3 <= len(words) <= 12 and len(body) >= TITLED[0] and 2 * len(told) >= len(re.findall(r"\w{4,}", name)) > 0:
            yield Pair("title", body, "Give the text a title.", name.capitalize() if name.isupper() else name)


def authored(texts: Iterable[str]) -> list[Pair]:
    """The summaries of all texts and those titles that few sections share."""
    marked = [UNDERLINED.sub(r"## \1", text) for text in texts]
    named = [pair for text in marked for pair in titles(text)]
    count = Counter(pair.answer.lower() for pair in named)
    return [pair for text in marked for pair in summaries(text)] + [
        p for p in named if count[p.answer.lower()] < COMMON
    ]
