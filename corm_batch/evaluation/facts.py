"""Facts to plant in a text and questions about them: one function a task, each in the file of its suite.

Names come from the lists here and from words of the text around them; values are always drawn afresh.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

THINGS = (
    "pass key", "access code", "locker number", "file number", "phone extension", "order number", "room code",
    "ticket number", "badge number", "seal number",
)  # fmt: skip
PLACES = (
    "north archive", "south archive", "harbour office", "west tower", "old library", "river station", "stone bridge",
    "upper market", "glass house", "lower gate", "east mill", "king street", "garden hall", "winter palace", "red barn",
    "iron yard", "city vault", "post house", "salt quay", "school annex", "grain store", "signal box", "chapel loft",
    "printing shop", "customs shed", "ferry landing", "corn exchange", "clock room", "map cabinet", "tea depot",
)  # fmt: skip
TITLES = ("Mr.", "Mrs.", "Dr.", "Miss")
SURNAMES = (
    "Ashdown", "Barlow", "Carver", "Dunmore", "Ellery", "Fairfax", "Garland", "Holloway", "Ingram", "Jessop",
    "Kendrick", "Lathom", "Merrow", "Norris", "Osgood", "Penrose", "Quill", "Rowntree", "Selwyn", "Thorne", "Upton",
    "Vance", "Whitby", "Yardley",
)  # fmt: skip
OBJECTS = (
    "brass telescope", "leather satchel", "silver watch", "wooden flute", "glass globe", "iron key", "blue umbrella",
    "painted fan", "copper kettle", "ivory chess set", "green ledger", "velvet cloak", "old map", "marble bust",
    "tin whistle", "gold ring", "red lantern", "clay jar", "walnut box", "steel compass",
)  # fmt: skip
CITIES = (
    "Lisbon", "Vienna", "Oslo", "Cairo", "Madrid", "Geneva", "Prague", "Dublin", "Athens", "Boston", "Lima", "Quebec",
    "Naples", "Warsaw", "Tunis", "Bergen", "Havana", "Delhi", "Kyoto", "Perth", "Malta", "Leeds", "Turin", "Basel",
    "Ghent",
)  # fmt: skip
ADJECTIVES = (
    "quiet", "amber", "brisk", "hollow", "silver", "crimson", "gentle", "rapid", "narrow", "ancient", "frozen",
    "golden", "humble", "lively", "marble", "noble", "paper", "rustic", "sunny", "velvet",
)  # fmt: skip
NOUNS = (
    "falcon", "meadow", "lantern", "anchor", "violin", "compass", "orchard", "pebble", "harvest", "kettle", "mirror",
    "needle", "oyster", "parade", "quiver", "ribbon", "saddle", "timber", "walnut", "zephyr",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Lines to plant in this order and questions about them, each with its answer."""

    lines: list[str]
    questions: list[tuple[str, str]]


@dataclass(frozen=True)
class Draw:
    """Where names and values come from.

    Attributes:
        random: the source of every choice.
        words: plain words of the text, for names that no list holds.
        room: tokens that the lines may take together.
        tokens: counts the tokens of a line.
    """

    random: random.Random
    words: Sequence[str]
    room: int
    tokens: Callable[[str], int]

    def digits(self, count: int | None = None) -> str:
        """A number with leading zeros, of four to seven digits if not told."""
        count = count or self.random.choice((4, 5, 5, 6, 7))
        return f"{self.random.randrange(10**count):0{count}d}"

    def name(self) -> str:
        """Two words and, half of the time, a number: quiet-falcon-17."""
        own = self.random.random() < 0.5
        first = self.random.choice(ADJECTIVES if own else self.words)
        second = self.random.choice(NOUNS if own else self.words)
        return f"{first}-{second}" + (f"-{self.random.randrange(1, 100)}" if self.random.random() < 0.5 else "")

    def names(self, count: int) -> list[str]:
        """Distinct names."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.name()] = None
        return list(found)

    def filling(self, line: str) -> int:
        """How many lines like this one fill a tenth to all of the room."""
        return max(1, int(self.random.uniform(0.1, 1.0) * self.room / self.tokens(line)))

    def shuffled(self, questions: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The questions in an order of their own."""
        return self.random.sample(questions, len(questions))


Maker = Callable[[Draw], Facts]
"""A task: its name is the function's, its facts follow from the draw alone."""
