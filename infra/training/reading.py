"""Questions and summaries over natural text: what is to be said stands in the text already.

Gaps turn any sentence into a question about it (unsupervised question answering by cloze, Lewis et al. 2019,
arXiv 1906.04980); central sentences turn any text into a summary (gap sentences chosen by ROUGE-1 against the rest,
PEGASUS, Zhang et al. 2020, arXiv 1912.08777; here they stay in the text, so that the model learns to quote them).
"""

from __future__ import annotations

import random
import re
from collections import Counter

START = r"(?:^|(?<=\n)|(?<=[.!?]\s)|(?<=[.!?][\"”]\s))(?<!Mr. )(?<!Dr. )(?<!Mrs. )(?<!St. )[\"“]?[A-Z]"
BODY = r"(?:[^.!?\n]|\n(?!\n)|(?:(?<=Mr)|(?<=Dr)|(?<=Mrs)|(?<=St)|(?<=\b[A-Z]))\.|\.(?=\d)){20,400}"
SENTENCE = re.compile(rf"{START}{BODY}[.!?][\"”]?(?=\s+[\"“]?[A-Z]|\s*\n|\s*$)")
"""From behind the end of another one, or of a line; abbreviated titles, initials and decimal points do not end it."""
WORD = re.compile(r"\w+")
SPAN = re.compile(r"(?<=\w )(?:[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+){0,3}|\d[\d,.]*\d|\d)(?=[\s,;:.])")
NUMBERS = ("one", "two", "three", "four", "five")
SPEECH = re.compile('["“”]')
MOST_SHARED = 0.5
"""A sentence that shares so much with a chosen one (F1 of words) would say it again."""


def sentences(text: str) -> list[str]:
    """Whole sentences of 5 to 60 words, white space evened out."""
    found = (" ".join(match.group().split()) for match in SENTENCE.finditer(text))
    return [sentence for sentence in found if 5 <= len(sentence.split()) <= 60]


def gaps(text: str, draw: random.Random, count: int) -> list[tuple[str, str]]:
    """Up to `count` sentences with a name or number left out, some other words dropped too, and what was left out."""
    questions: list[tuple[str, str]] = []
    candidates = sentences(text)
    for sentence in draw.sample(candidates, min(len(candidates), 3 * count)):
        spans = list(SPAN.finditer(sentence))
        if not spans or len(questions) == count:
            continue
        span = draw.choice(spans)
        keep = draw.uniform(0.4, 1.0)
        before, after = (
            " ".join(word for word in part.split() if draw.random() < keep)
            for part in (sentence[: span.start()], sentence[span.end() :])
        )
        questions.append((f"Fill the gap: {before} ____ {after}".strip(), span.group()))
    return questions


def rouge_1(left: Counter[str], right: Counter[str]) -> float:
    """F1 of the words two texts share."""
    return 2 * sum(min(count, right[word]) for word, count in left.items()) / max(1, left.total() + right.total())


def rouge_1_rest(own: Counter[str], whole: Counter[str]) -> float:
    """F1 of the words that a part of a text shares with the rest of it."""
    shared = sum(min(count, whole[word] - count) for word, count in own.items())
    return 2 * shared / max(1, whole.total())


def central(found: list[str], count: int) -> list[str]:
    """Up to `count` of the sentences, in their order: those most like all the others, and not like one another."""
    words = [Counter(word.lower() for word in WORD.findall(sentence) if len(word) > 3) for sentence in found]
    whole = Counter(word for own in words for word in own.elements())
    score = [rouge_1_rest(own, whole) for own in words]
    chosen: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: -score[i]):
        if len(chosen) < count and all(rouge_1(words[i], words[j]) < MOST_SHARED for j in chosen):
            chosen.append(i)
    return [found[i] for i in sorted(chosen)]


def central_sentences(text: str, draw: random.Random) -> tuple[str, str] | None:
    """A request for a summary of one to five sentences, and those sentences of the text that say most of the rest.

    They are at most half of the sentences of 8 to 40 words without speech; None where there is only one such sentence.
    """
    found = [found for found in sentences(text) if 8 <= len(found.split()) <= 40 and not SPEECH.search(found)]
    chosen = central(found, min(draw.choice((1, 2, 2, 3, 3, 4, 5)), len(found) // 2))
    if not chosen:
        return None
    plural = "sentence" if len(chosen) == 1 else "sentences"
    return f"Summarize the text in {NUMBERS[len(chosen) - 1]} {plural}.", " ".join(chosen)
