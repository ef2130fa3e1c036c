"""Scores of generated text against what people wrote, and how sure one may be of a share."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from corm_batch.tasks.numbers import find_apart

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, 0..1; all of it when nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    z, share = 1.96, hits / count
    centre = share + z * z / (2 * count)
    spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share(hits: Iterable[bool | float]) -> dict[str, Any]:
    """How many of how many, with the 95 % Wilson interval."""
    found = [bool(hit) for hit in hits]
    low, high = wilson(sum(found), len(found))
    return {"hits": sum(found), "cases": len(found), "share": fmean(found), "low": low, "high": high}


def best(score: Callable[[str, str], float], got: str, answers: Sequence[str]) -> float:
    """The highest score against any of the answers."""
    return max(score(got, answer) for answer in answers)


def squad_words(text: str) -> list[str]:
    """Words as the official SQuAD script compares them: lower case, no punctuation, no articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def squad_exact(got: str, answer: str) -> float:
    """SQuAD's exact match, 0 or 1."""
    return float(squad_words(got) == squad_words(answer))


def squad_f1(got: str, answer: str) -> float:
    """SQuAD's token F1, 0..1; of what has no words, such as `A`, the exact match, as in its script for version 2."""
    left, right = Counter(squad_words(got)), Counter(squad_words(answer))
    if not left or not right:
        return float(left == right)
    return 2 * (left & right).total() / (left.total() + right.total())


def words(text: str) -> list[str]:
    """Lower-case runs of letters, digits and underscores."""
    return re.findall(r"\w+", text.lower())


def rouge_l(got: str, answer: str) -> float:
    """ROUGE-L F1, 0..1: the longest common subsequence of the words against the mean of both lengths."""
    left, right = words(got), words(answer)
    longest = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for i, other in enumerate(right, 1):
            diagonal, longest[i] = longest[i], diagonal + 1 if word == other else max(longest[i], longest[i - 1])
    return 2 * longest[-1] / max(1, len(left) + len(right))


def degenerate(text: str) -> bool:
    """Whether a text says nothing, or the same four words in a row three times."""
    found = words(text)
    grams = Counter(zip(*(found[i:] for i in range(4)), strict=False))
    return not found or max(grams.values(), default=0) >= 3


def exact(got: str, answer: str) -> float:
    """The same text, blanks at the ends aside, 0 or 1."""
    return float(got.strip() == answer.strip())


def contains(got: str, answer: str) -> float:
    """Whether the answer stands in the text, whatever the case, 0 or 1: as RULER and kvpress count."""
    return float(answer.strip().lower() in got.lower())


def says(got: str, answer: str) -> float:
    """The same but inside a number: neither 12 nor 2.5 says 2."""
    return float(find_apart(re.escape(answer.strip().lower()), got.lower()) is not None)


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact": exact,
    "contains": says,
    "f1": squad_f1,
    "rouge_l": rouge_l,
}
"""What a text is worth against one answer, 0..1; the first two are 0 or 1."""
Metric = Literal["exact", "contains", "f1", "rouge_l"]
SHARES = ("exact", "contains")
