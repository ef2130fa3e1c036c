from typing import Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from corm_batch.errors import SpecError
from corm_batch.registry import Plugin, describe, shown


class Animal(Plugin, kind="animal", package="corm_batch.policies"):
    """Something that lives."""


class Cat(Animal, name="cat"):
    """Sleeps.

    Most of the day.
    """

    lives: int = Field(9, ge=1)
    colour: Literal["black", "red"] = Field("black", alias="color")


class Nested(BaseModel, extra="forbid"):
    size: int = 1
    cats: dict[str, int] = {}


class Outer(BaseModel, extra="forbid"):
    nested: Nested = Nested()
    lists: list[Nested] = []


def test_a_plugin_is_selected_by_name_and_its_fields_are_checked():
    cat = Animal.from_spec({"name": "cat", "lives": 7, "color": "red"})
    assert isinstance(cat, Cat)
    assert (cat.lives, cat.colour, cat.name, Cat.summary()) == (7, "red", "cat", "Sleeps.")
    assert Animal.from_spec(cat) is cat
    with pytest.raises(ValidationError, match="frozen"):
        cat.lives = 3


def test_spec_round_trip():
    cat = Cat(lives=3, color="red")
    assert cat.to_spec() == {"name": "cat", "lives": 3, "color": "red"}
    assert Animal.from_spec(cat.to_spec()) == cat


@pytest.mark.parametrize("spec", [{"name": "dog"}, {"name": None}, {"name": ["cat"]}, {}])
def test_an_unknown_name_is_answered_with_those_there_are(spec):
    with pytest.raises(SpecError, match=r"animal\.name: no animal is called .*there are:\n  cat: Sleeps\."):
        Animal.from_spec(spec)


@pytest.mark.parametrize("spec", ["cat", None, 5, ["cat"]])
def test_a_section_must_be_a_mapping(spec):
    with pytest.raises(SpecError, match="animal: expected a mapping with a name, got"):
        Animal.from_spec(spec)


def test_every_wrong_field_has_its_line():
    with pytest.raises(SpecError) as caught:
        Animal.from_spec({"name": "cat", "lives": 0, "color": "blue", "colour": "red"})
    assert str(caught.value).splitlines() == [
        "animal.lives: Input should be greater than or equal to 1, got 0",
        "animal.color: Input should be 'black' or 'red', got 'blue'",
        "animal.colour: unknown key; known here: lives, color",
    ]


def test_kinds_do_not_mix_and_names_are_unique():
    class Plant(Plugin, kind="plant", package="corm_batch.policies"):
        """Something that grows."""

    assert list(Plant.registered()) == []
    assert list(Animal.registered()) == ["cat"]
    with pytest.raises(ValueError, match="two animal plug-ins are called 'cat'"):

        class Lion(Animal, name="cat"):
            """Another."""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"nested": {"siz": 1}}, "outer.nested.siz: unknown key; known here: size, cats"),
        ({"nest": 1}, "outer.nest: unknown key; known here: nested, lists"),
        ({"lists": [{"siz": 1}]}, "outer.lists.0.siz: unknown key"),
        ({"nested": {"cats": {"a": "x"}}}, "outer.nested.cats.a: Input should be a valid integer"),
    ],
)
def test_unknown_keys_are_answered_with_the_known_ones(data, line):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    assert describe(caught.value, "outer", Outer).startswith(line)


def test_shown_values_are_short_and_carry_no_credentials():
    assert shown("s3://key:secret@bucket/x") == "'s3://***@bucket/x'"
    assert "secret" not in shown({"a": ["s3://key:secret@bucket/x"]})
    bomb = "x"
    for _ in range(50):
        bomb = [bomb, bomb]
    assert len(shown(bomb)) < 1000
    assert len(shown("x" * 10**6)) < 200
