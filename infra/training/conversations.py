"""Conversations that people summarised, varied in ways that keep the summary true.

Men become women and women men, the age changes where both sides say it, speakers get other labels, and some short
conversations follow one another. What a rule is not sure of stays as it is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from infra.training.ailments import ONES, spoken

MALE_TO_FEMALE = {
    "he": "she", "he's": "she's", "he'd": "she'd", "he'll": "she'll", "him": "her", "his": "her", "himself": "herself",
    "male": "female", "man": "woman", "gentleman": "lady", "boy": "girl", "sir": "ma'am", "mr": "ms", "mister": "miss",
}  # fmt: skip
FEMALE_TO_MALE = {
    "she": "he", "she's": "he's", "she'd": "he'd", "she'll": "he'll", "herself": "himself", "female": "male",
    "woman": "man", "lady": "gentleman", "girl": "boy", "ma'am": "sir", "ms": "mr", "mrs": "mr",
}  # fmt: skip
UNSURE = re.compile(
    r"\b(?:hers?|pregnan\w*|prostat\w*|breast\w*|uter\w*|ovar\w*|menstru\w*|menopaus\w*|periods?|pap|vagin\w*|cervical"
    r"|hysterectom\w*|gravida|para|g\dp\d|test[ei]\w*|scrot\w*|peni\w+|born|birth|babys?|fetal|c-section|cesarean"
    r"|mammogra\w*|circumcis\w*|erecti\w*|gyn\w*|mom|mother\w*|dad|father\w*|parents?|sons?|daughters?|brothers?"
    r"|sisters?|wife|husband|uncles?|aunts?|grand\w+|nephews?|nieces?|boyfriend|girlfriend|fianc\w+|rh[fm]|miss"
    r"|oh,? (?:man|boy)|(?:man|boy),|(?-i:M[RS]))\b",
    re.IGNORECASE,
)
"""Words that swapping makes wrong: `her` is `his` or `him`, some things only one sex has, `he` may be a relative."""
LABELS = ({"Doctor": "Dr", "Patient": "Pt"}, {"Doctor": "Physician"}, {"Doctor": "D", "Patient": "P"},
          {"Doctor": "Clinician"}, {"Guest_family": "Relative"})  # fmt: skip
SHORT, FEW_WORDS, MOST = 1200, 4, 4
"""A conversation of fewer characters may be joined with others, unless its summary has fewer words; so many at most."""


class Conversation(NamedTuple):
    """What was said, what is asked for, and the summary that someone wrote."""

    said: str
    request: str
    summary: str


def _of(words: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(sorted(words, key=len, reverse=True))})\b", re.IGNORECASE)


_MALE, _FEMALE = _of([*MALE_TO_FEMALE]), _of([*FEMALE_TO_MALE, "her", "hers"])


def _as_written(word: str, like: str) -> str:
    return word.upper() if like.isupper() and len(like) > 1 else word.capitalize() if like[0].isupper() else word


def sexes(conversation: Conversation) -> frozenset[str]:
    """Of the people spoken of: `male`, `female`, both or neither."""
    both = f"{conversation.said}\n{conversation.summary}"
    return frozenset(name for name, words in (("male", _MALE), ("female", _FEMALE)) if words.search(both))


def other_sex(conversation: Conversation) -> Conversation:
    """The same of a person of the other sex; unchanged where that might be wrong."""
    found = sexes(conversation)
    if len(found) != 1 or UNSURE.search(conversation.said) or UNSURE.search(conversation.summary):
        return conversation
    words, table = (_MALE, MALE_TO_FEMALE) if found == {"male"} else (_FEMALE, FEMALE_TO_MALE)
    said, summary = (
        words.sub(lambda match: _as_written(table[match[0].lower()], match[0]), text)
        for text in (conversation.said, conversation.summary)
    )
    return conversation._replace(said=said, summary=summary)


def other_age(conversation: Conversation, draw: random.Random) -> Conversation:
    """The same of a person of another age from 20 to 89; unchanged where an age is not said once on either side."""
    told = re.findall(r"\b([2-8]\d)(?=[- ]year[- ]old)", conversation.summary)
    if len(told) != 1 or len(re.findall(rf"\b{told[0]}\b", conversation.summary)) != 1:
        return conversation
    units = "|".join(ONES[1:10])
    word = spoken(int(told[0])).replace(" ", "[ -]")
    pattern = re.compile(rf"\b(?:{told[0]}|{word}(?![ -](?:{units}|hundred|thousand)\b))\b", re.IGNORECASE)
    heard = pattern.findall(conversation.said)
    if len(heard) != 1:
        return conversation
    age = draw.randint(20, 89)
    new = str(age) if heard[0].isdigit() else _as_written(spoken(age), heard[0])
    summary = re.sub(rf"\b{told[0]}\b", str(age), conversation.summary)
    return conversation._replace(said=pattern.sub(new, conversation.said), summary=summary)


def other_labels(conversation: Conversation, draw: random.Random) -> Conversation:
    """The same with other words in front of what the speakers say."""
    names = draw.choice(LABELS)
    pattern = re.compile(rf"^({'|'.join(names)})(?=[_:])", re.MULTILINE)
    return conversation._replace(said=pattern.sub(lambda match: names[match[0]], conversation.said))


def varied(conversation: Conversation, draw: random.Random) -> Conversation:
    """The same of someone of another sex, another age, both or neither."""
    if draw.random() < 0.4:
        conversation = other_sex(conversation)
    return other_age(conversation, draw) if draw.random() < 0.5 else conversation


def joins(conversation: Conversation) -> bool:
    """Whether others may follow: it is short, and its summary says something by itself."""
    return len(conversation.said) < SHORT and len(conversation.summary.split()) >= FEW_WORDS


def drawn(conversations: Sequence[Conversation], draw: random.Random) -> Conversation:
    """One of the conversations, or some short ones of people of one sex that follow one another, varied."""
    first, *others = draw.sample(conversations, min(MOST, len(conversations)))
    chosen = [varied(first, draw)]
    count = draw.randint(1, MOST - 1) if joins(first) and draw.random() < 0.3 else 0
    for other in (varied(one, draw) for one in others[:count]):
        people = frozenset().union(*map(sexes, (*chosen, other)))
        if joins(other) and other.request == first.request and len(people) < 2:
            chosen.append(other)
    said = "\n".join(one.said.strip() for one in chosen)
    together = Conversation(said, first.request, " ".join(one.summary for one in chosen))
    return other_labels(together, draw) if draw.random() < 0.15 else together
