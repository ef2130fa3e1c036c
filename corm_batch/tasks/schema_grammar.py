"""Form: the part of a JSON Schema that a grammar can hold an answer to, with an end to everything that has none.

What a grammar cannot hold is left to whoever validates the answer. What it holds beyond the schema: no property without
a name or a schema there, 18 digits of integers, 16 and nine decimals of numbers with bounds, and a length of texts and
lists, because a small model may repeat itself in one for as long as it may write. Knows nothing of answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from corm_batch.errors import GrammarError
from corm_batch.grammar.grammar import Grammar
from corm_batch.tasks.formats import NARROWED
from corm_batch.tasks.json_schema import only_values, resolved, target_of, types_of, validator
from corm_batch.tasks.plain_form import PlainForm
from corm_batch.tasks.schema_merge import merged
from corm_batch.tasks.schema_room import SHORT, Room

_CHARS_PER_TOKEN = 3
_MOST_OF_ANYTHING = 8  # entries of lists and objects whose values are not said
_LONGEST_LEAST = 10_000  # characters that a pattern may ask for where the schema sets no end
_LONGEST_NAME = 60  # of a property that the schema does not name
_DEEPEST = 3  # times that a schema may stand inside itself
_MOST_PARTS = 2_000
_DIGITS_INTEGER = 18  # what is bounded by more, llguidance does not take
_DIGITS_NUMBER, _DECIMALS = 16, 1e-9
_STRING, _NUMBER = ("minLength", "maxLength"), ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_SAID_BY = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", *_STRING),
    "number": (*_NUMBER, "multipleOf"),
}
_HELD = {key for keys in _SAID_BY.values() for key in keys} | {
    "$ref", "allOf", "anyOf", "oneOf", "type", "enum", "const",
}  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What an answer is held to.

    Attributes:
        schema: of the grammar.
        within: allows of this what is not as long as it may only be because an answer has to end.
        never: properties that need not be there, and for which nothing can be written.
    """

    schema: dict[str, Any]
    within: dict[str, Any]
    never: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: Mapping[str, Any], max_new_tokens: int) -> Form:
        """That of a checked schema, for answers of so many tokens.

        Raises:
            ValueError: no grammar can be made of it; why.
        """
        return _form_of(json.dumps(schema), max_new_tokens)


@lru_cache(maxsize=64)
def _form_of(schema: str, max_new_tokens: int) -> Form:
    """`Form.of`, made once."""
    holder = _Holder(json.loads(schema), max_new_tokens * _CHARS_PER_TOKEN)
    held = holder.whole(slack=0)
    if held is False:
        raise ValueError("no answer can satisfy it")
    try:
        Grammar.of_schema(held).compiled()
    except GrammarError as error:
        raise ValueError(str(error)) from error
    return Form(held, holder.whole(slack=1), tuple(dict.fromkeys(holder.never)))


def plain_form(schema: Any, root: Mapping[str, Any]) -> Grammar | None:
    """The form of a plain answer about a field of a few values, or of yes and no; None for others."""
    values = only_values(schema, root)
    if values is None and types_of(schema, root) - {"null"} == {"boolean"}:
        values = ["Yes", "No"]
    if values is None:
        return None
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values if value is not None]
    return PlainForm(tuple(texts)).grammar


@dataclass
class _Holder:
    """Makes the form of one schema.

    Attributes:
        root: the schema.
        num_chars: of an answer, about.
        slack: see `whole`.
        share: characters of a text or list, where the holder is now, that need not end by the schema.
        parts: what references stand for, by how one came there, each with its name.
        never: see `Form`.
    """

    root: Mapping[str, Any]
    num_chars: int
    slack: int = 0
    share: int = 0
    parts: dict[tuple[Any, ...], tuple[str, Any]] = field(default_factory=dict)
    never: list[str] = field(default_factory=list)

    def whole(self, slack: int) -> Any:
        """The form, `slack` characters, digits and items shorter where only an answer's end bounds it."""
        self.slack, self.parts = slack, {}
        self.share = self.num_chars  # of a list at the root
        if resolved(self.root, self.root).get("type") != "array":
            self.share = Room.of(self.root, self.root).share(self.num_chars)
        found = self.hold(self.root, ())
        if found is False or not self.parts:
            return found
        return {**found, "$defs": {name: part for name, part in self.parts.values() if part is not False}}

    def hold(self, part: Any, active: tuple[str, ...]) -> Any:
        """What is held of a schema that some references led to; False where nothing can satisfy it."""
        if isinstance(part, bool):
            return self.anything(active) if part else False
        part = {key: value for key, value in part.items() if key in _HELD}
        if list(part) == ["$ref"]:
            return self.referred(part["$ref"], active)
        if "$ref" in part:
            ref = part.pop("$ref")
            deep = active.count(ref) >= _DEEPEST
            return not deep and self.hold(merged([target_of(ref, self.root), part]), (*active, ref))
        if "enum" in part or "const" in part:
            values = part.get("enum", [part.get("const")])
            checker = validator(self.root).evolve(schema=part)
            values = [value for value in values if checker.is_valid(value)]
            return {"enum": values} if values else False
        if "allOf" in part:
            parts = [resolved(one, self.root) if isinstance(one, dict) else one for one in part.pop("allOf")]
            return self.hold(merged([part, *parts]), active)
        for key in ("anyOf", "oneOf"):
            if key in part:
                rest = {name: value for name, value in part.items() if name != key}
                return _any_of(self.hold(merged([rest, one]), active) for one in part[key])
        said = next((kind for kind, keys in _SAID_BY.items() if part.keys() & set(keys)), None)
        types = part.get("type", said)
        if isinstance(types, str):
            return getattr(self, f"hold_{types}")(part, active)
        if types is None:
            return self.anything(active)
        return _any_of(self.hold({**part, "type": kind}, active) for kind in types)

    def referred(self, ref: str, active: tuple[str, ...]) -> Any:
        """A reference to a part of its own, which is made once for each way that leads there."""
        if active.count(ref) >= _DEEPEST:
            return False
        key = (*sorted((*active, ref)), ref, self.share)
        if key not in self.parts:
            if len(self.parts) == _MOST_PARTS:
                raise ValueError(f"$ref {ref!r}: its references make more than {_MOST_PARTS:,} schemas")
            name = str(len(self.parts))
            self.parts[key] = name, None  # nothing refers to it before it is there: what leads back has other keys
            self.parts[key] = name, self.hold(target_of(ref, self.root), (*active, ref))
        name, part = self.parts[key]
        return part is not False and {"$ref": f"#/$defs/{name}"}

    def anything(self, active: tuple[str, ...]) -> Any:
        """Plain values, and lists and objects of such."""
        plain = [self.hold({"type": kind}, active) for kind in ("string", "number", "boolean", "null")]
        inner = {"anyOf": plain}
        return {
            "anyOf": [
                *plain,
                {"type": "array", "items": inner, "maxItems": _MOST_OF_ANYTHING - self.slack},
                self.mapping({}, inner),
            ]
        }

    def hold_null(self, part: Any, active: tuple[str, ...]) -> Any:
        """The keyword `type` alone."""
        return {"type": part["type"]}

    hold_boolean = hold_null

    def hold_string(self, part: Any, active: tuple[str, ...]) -> Any:
        """A text of bounded length."""
        found = {"type": "string"} | {key: part[key] for key in _STRING if key in part}
        found |= {key: part[key] for key in ("pattern", "format") if key in part and _can_hold_texts(key, part[key])}
        if narrower := NARROWED.get(found.get("format", "")):
            found["allOf"] = [{"pattern": narrower}]
        longest = max(self.share, 2 * part.get("minLength", 0))
        if "maxLength" not in part or part["maxLength"] > max(longest, SHORT):
            while longest < _LONGEST_LEAST and not _can_hold(json.dumps({**found, "maxLength": longest - 1})):
                longest *= 2  # the least that a pattern or a format asks for
            found["maxLength"] = longest - self.slack
        return self.possible(found)

    def hold_integer(self, part: Any, active: tuple[str, ...]) -> Any:
        """An integer of bounded size."""
        found = {"type": "integer"} | {key: part[key] for key in (*_NUMBER, "multipleOf") if key in part}
        return self.possible(_bounded(found, 10 ** (_DIGITS_INTEGER - self.slack) - 1))

    def hold_number(self, part: Any, active: tuple[str, ...]) -> Any:
        """A number; of bounded size and decimals where it has bounds, beside which llguidance takes no exponent."""
        found = {"type": "number"} | {key: part[key] for key in (*_NUMBER, "multipleOf") if key in part}
        if len(found) == 1:  # 1.6e-19 would be written 1.6
            return found
        if self.slack:
            found.pop("multipleOf", None)
            return _bounded(found, 10 ** (_DIGITS_NUMBER - 1) - 1)
        if not any(0 < abs(found[key]) < 1e-6 for key in _NUMBER if key in found):
            found = {"multipleOf": _DECIMALS, **found}
        return self.possible(_bounded(found, 10**_DIGITS_NUMBER - 1))

    def hold_array(self, part: Any, active: tuple[str, ...]) -> Any:
        """A list of bounded length."""
        found = {"type": "array"} | {key: part[key] for key in ("minItems", "maxItems") if key in part}
        fixed = [self.hold(one, active) for one in part.get("prefixItems", ())]
        if fixed:
            found["prefixItems"] = fixed
        item = Room.of(part.get("items", not fixed), self.root)
        most, share = max(item.items(self.share), 2 * part.get("minItems", 0)), self.share
        if part.get("maxItems", most + 1) > most:
            found["maxItems"] = most - self.slack
        self.share = item.share(share // min(most, part.get("maxItems", most) or 1))
        found["items"] = self.hold(part.get("items", not fixed), active)
        self.share = share
        least = part.get("minItems", 0)
        impossible = False in fixed or (found["items"] is False and least > len(fixed))
        impossible |= least > found.get("maxItems", least)
        return False if impossible else found

    def hold_object(self, part: Any, active: tuple[str, ...]) -> Any:
        """An object of the named properties, or one that maps names to values."""
        properties, required = part.get("properties", {}), part.get("required", [])
        others = part.get("additionalProperties", True)
        if not properties and not required:
            patterns = part.get("patternProperties", {})
            held = {name: self.hold(one, active) for name, one in patterns.items()}
            value = not patterns and self.hold(others, active)
            return self.mapping(held, value)
        properties = {**properties, **{name: others for name in required if name not in properties}}
        found = {name: self.hold(one, active) for name, one in properties.items()}
        if any(found[name] is False for name in required):
            return False
        if len(set(active)) == len(active):  # deeper inside itself it is its depth that has an end
            self.never += [name for name, one in found.items() if one is False]
        found = {name: one for name, one in found.items() if one is not False}
        others = isinstance(others, dict) and self.hold(others, active)
        return {"type": "object", "properties": found, "required": list(required), "additionalProperties": others}

    def possible(self, part: dict[str, Any]) -> Any:
        """A schema of texts or numbers; False where nothing satisfies it."""
        return part if self.slack or _can_hold(json.dumps(part)) else False

    def mapping(self, patterns: dict[str, Any], value: Any) -> Any:
        """An object whose names match patterns, or are any of bounded length."""
        held = {name: one for name, one in patterns.items() if one is not False and _can_hold_texts("pattern", name)}
        if value is not False:
            held = {f"^.{{0,{_LONGEST_NAME - self.slack}}}$": value}
        return {
            "type": "object", "patternProperties": held, "additionalProperties": False,
            "maxProperties": _MOST_OF_ANYTHING - self.slack if held else 0,
        }  # fmt: skip


def _any_of(parts: Iterable[Any]) -> Any:
    """One of several; False where none can be."""
    possible = [part for part in parts if part is not False]
    if len(possible) < 2:
        return possible[0] if possible else False
    return {"anyOf": possible}


def _bounded(part: dict[str, Any], most: int) -> dict[str, Any]:
    """A schema of numbers with a bound on either side where that leaves any."""
    if not any(abs(part[key]) >= most for key in _NUMBER if key in part):
        if part.keys().isdisjoint(("minimum", "exclusiveMinimum")):
            part["minimum"] = -most
        if part.keys().isdisjoint(("maximum", "exclusiveMaximum")):
            part["maximum"] = most
    return part


def _can_hold_texts(key: str, value: str) -> bool:
    """Whether a grammar can hold texts to a pattern, or a format."""
    return _can_hold(json.dumps({"type": "string", key: value}))


@lru_cache(maxsize=1024)
def _can_hold(schema: str) -> bool:
    """Whether a grammar can hold anything to a schema, as JSON."""
    try:
        Grammar.of_schema(json.loads(schema)).compiled()
    except GrammarError:
        return False
    return True
