"""Questions and summaries over natural text: what is to be said stands in the text already.

Gaps turn any sentence into a question about it (unsupervised question answering by cloze, Lewis et al. 2019,
arXiv 1906.04980); central sentences turn any text into a summary (gap sentences chosen by ROUGE-1 against the rest,
PEGASUS, Zhang et al. 2020, arXiv 1912.08777; here they stay in the text, so that the model learns to quote them).
"""

from __future__ import annotations

import random
import re
from collections import Counter

SENTENCE = re.compile(r"[A-Z\"“][^.!?]{20,400}[.!?](?=\s)")
WORD = re.compile(r"\w+")
SPAN = re.compile(r"(?<=\w )(?:[A-Z][\w'-]+(?: (?:of |the )?[A-Z][\w'-]+){0,3}|\d[\d,.]*\d|\d)(?=[\s,;:.])")
NUMBERS = ("one", "two", "three", "four", "five")


def sentences(text: str) -> list[str]:
    """Whole sentences of 5 to 60 words, white space evened out."""
    found = (" ".join(match.group().split()) for match in SENTENCE.finditer(text))
    return [sentence for sentence in found if 5 <= len(sentence.split()) <= 60]


def gaps(text: str, draw: random.Random, count: int) -> list[tuple[str, str]]:
    """Up to `count` sentences with a name or number left out, some other words dropped too, and what was left out."""
    questions = []
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
    return 2 * sum((left & right).values()) / max(1, left.total() + right.total())


def central_sentences(text: str, draw: random.Random) -> tuple[str, str] | None:
    """A request for a summary of one to five sentences, and those sentences of the text that say most of the rest."""
    found = [sentence for sentence in sentences(text) if 8 <= len(sentence.split()) <= 40]
    count = draw.randint(1, 5)
    if len(found) < 2 * count:
        return None
    words = [Counter(word.lower() for word in WORD.findall(sentence) if len(word) > 3) for sentence in found]
    whole = sum(words, Counter[str]())
    score = [rouge_1(own, whole - own) for own in words]
    best = sorted(sorted(range(len(found)), key=lambda i: -score[i])[:count])
    plural = "sentence" if count == 1 else "sentences"
    return f"Summarize the text in {NUMBERS[count - 1]} {plural}.", " ".join(found[i] for i in best)
