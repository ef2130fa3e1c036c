"""Facts to plant in a text and questions about them: one function a task.

The shapes follow the retrieval tests of the field: pass keys, needles, RULER's magic numbers, LongEval's register
lines, key-value retrieval. Names come from lists and from words of the training text; values are always drawn afresh.
"""

from __future__ import annotations

import random
import uuid
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
        words: plain words of the training text, for names that no list holds.
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


def pass_key(draw: Draw) -> Facts:
    """The one fact that says itself twice."""
    key = draw.digits()
    return Facts([f"The pass key is {key}. Remember it. {key} is the pass key."], [("What is the pass key?", key)])


def place_number(draw: Draw) -> Facts:
    """A number that belongs to a place."""
    name, value = f"{draw.random.choice(THINGS)} of the {draw.random.choice(PLACES)}", draw.digits()
    return Facts([f"The {name} is {value}."], [(f"What is the {name}?", value)])


def one_of_several(draw: Draw) -> Facts:
    """Two to eight numbers of as many places."""
    places = draw.random.sample(PLACES, draw.random.randint(2, 8))
    values = {f"{draw.random.choice(THINGS)} of the {place}": draw.digits() for place in places}
    lines = [f"The {name} is {value}." for name, value in values.items()]
    return Facts(lines, draw.shuffled([(f"What is the {name}?", value) for name, value in values.items()]))


def left_object(draw: Draw) -> Facts:
    """Who left what in which city, for one to four people."""
    people = draw.random.sample(SURNAMES, draw.random.randint(1, 4))
    rows = [
        (f"{draw.random.choice(TITLES)} {name}", draw.random.choice(OBJECTS), draw.random.choice(CITIES))
        for name in people
    ]
    lines = [f"{person} left the {thing} in {city}." for person, thing, city in rows]
    return Facts(
        lines, draw.shuffled([(f"Where did {person} leave the {thing}?", city) for person, thing, city in rows])
    )


def magic_number(draw: Draw) -> Facts:
    """One to eight numbers of made-up names."""
    count = draw.random.choice((4, 5, 6, 7))
    values = {name: draw.digits(count) for name in draw.names(draw.random.choice((1, 2, 4, 8)))}
    lines = [f"One of the special magic numbers for {name} is: {value}." for name, value in values.items()]
    question = "What is the special magic number for {} mentioned in the provided text?"
    return Facts(lines, draw.shuffled([(question.format(name), value) for name, value in values.items()]))


def all_values(draw: Draw) -> Facts:
    """Two to four numbers of each of one to three names; all of a name are asked for."""
    names = draw.names(draw.random.choice((1, 2, 3)))
    count = draw.random.choice((4, 5, 6, 7))
    values = {name: [draw.digits(count) for _ in range(draw.random.randint(2, 4))] for name in names}
    order = draw.shuffled([(name, "") for name in names for _ in values[name]])
    left = {name: iter(numbers) for name, numbers in values.items()}
    lines = [f"One of the special magic numbers for {name} is: {next(left[name])}." for name, _ in order]
    question = "What are all the special magic numbers for {} mentioned in the provided text?"
    return Facts(lines, draw.shuffled([(question.format(name), ", ".join(values[name])) for name in names]))


def records(draw: Draw) -> Facts:
    """Two to six records, all of them asked for in the order of the text."""
    count = draw.random.choice((3, 3, 4, 5))
    rows = [(place, draw.digits(count)) for place in draw.random.sample(PLACES, draw.random.randint(2, 6))]
    lines = [f"Record: the {place} holds {crates} crates." for place, crates in rows]
    return Facts(lines, [("Summarize the records.", "; ".join(f"{place} {crates}" for place, crates in rows))])


def register_lines(draw: Draw) -> Facts:
    """LongEval's lines, filling a part of the text."""
    line = "line {}: REGISTER_CONTENT is <{}>"
    names = draw.names(draw.filling(line.format("quiet-falcon-17", "12345")))
    values = {name: draw.digits() for name in names}
    questions = [(f"What is the REGISTER_CONTENT in line {name}?", f"<{value}>") for name, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


def key_value(draw: Draw) -> Facts:
    """Pairs of a JSON object with words as keys, filling a part of the text."""
    line = ' "{}": "{}",'
    values = {name: draw.digits() for name in draw.names(draw.filling(line.format("quiet-falcon-17", "12345")))}
    questions = [(f'What is the value associated with the key "{name}"?', value) for name, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


def opaque_key_value(draw: Draw) -> Facts:
    """The same with UUIDs or six digits on both sides."""

    def opaque() -> str:
        return str(uuid.UUID(int=draw.random.getrandbits(128))) if long else draw.digits(6)

    long = draw.random.random() < 0.5
    line = ' "{}": "{}",'
    values = {opaque(): opaque() for _ in range(draw.filling(line.format(opaque(), opaque())))}
    questions = [(f'What is the value associated with the key "{key}"?', value) for key, value in values.items()]
    return Facts([line.format(*item) for item in values.items()], draw.shuffled(questions))


TASKS: dict[Callable[[Draw], Facts], float] = {
    pass_key: 1,
    place_number: 1,
    one_of_several: 2,
    left_object: 3,
    magic_number: 2,
    all_values: 4,
    records: 6,
    register_lines: 3,
    key_value: 2,
    opaque_key_value: 2,
}
"""Every task and how often it is drawn in training, against the others."""
