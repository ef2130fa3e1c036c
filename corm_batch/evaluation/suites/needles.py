"""Needles: pass keys, numbers, places and RULER's magic numbers in a long text, asked for one at a time."""

from __future__ import annotations

from corm_batch.evaluation.fact_suite import FactSuite
from corm_batch.evaluation.facts import CITIES, OBJECTS, PLACES, SURNAMES, THINGS, TITLES, Draw, Facts


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


class Needles(FactSuite, name="needles"):
    """One fact of those planted in a long text."""

    makers = (pass_key, place_number, one_of_several, left_object, magic_number)
