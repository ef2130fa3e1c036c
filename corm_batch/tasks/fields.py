"""Fields of a JSON Schema: which columns they make, what answers say of them, and whether that is allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa

from corm_batch.data.schema import column
from corm_batch.errors import AnswerError
from corm_batch.tasks.evidence import quote_of
from corm_batch.tasks.json_answer import json_values, whole_members
from corm_batch.tasks.json_schema import constants_of, decimal_of, resolved, types_of, validator
from corm_batch.tasks.numbers import AROUND, read_number

ITEMS = "items"  # the column of an array at the root
_ARROW_TYPES = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_TRUTHS = {"yes": True, "true": True, "no": False, "false": False}


class Reading(NamedTuple):
    """What one answer says of one field.

    Attributes:
        value: in JSON's types; None also when there is a problem.
        problem: what was found and why it cannot be used; None when it can.
        said: the answer itself, where it was about this field alone.
        quote: the words it was taken from, as answered; None where none were asked for or given.
    """

    value: Any
    problem: str | None = None
    said: str = ""
    quote: str | None = None


@dataclass(frozen=True)
class Fields:
    """The fields of a checked schema: its properties, or for an array one field, `items`.

    Attributes:
        schema: as `check_schema` returned it.
        quotes: whether answers in JSON hold a quotation for each field; see evidence.py.
    """

    schema: Mapping[str, Any]
    quotes: bool = False

    @cached_property
    def is_list(self) -> bool:
        """Whether the schema is one of an array."""
        return resolved(self.schema, self.schema).get("type") == "array"

    @cached_property
    def properties(self) -> dict[str, dict[str, Any]]:
        """Name to schema."""
        return {ITEMS: dict(self.schema)} if self.is_list else resolved(self.schema, self.schema)["properties"]

    @cached_property
    def of_item(self) -> Fields | None:
        """The fields of an array's objects; None when it holds no objects."""
        item = resolved(self.schema, self.schema).get("items") if self.is_list else None
        if not isinstance(item, dict):
            return None
        item = resolved(item, self.schema)
        definitions = {key: self.schema[key] for key in ("$defs", "definitions") if key in self.schema}
        return Fields({**definitions, **item}) if item.get("properties") else None

    @cached_property
    def columns(self) -> list[pa.Field]:
        """One Arrow column for each field: integers, numbers and booleans as such, all else as text or JSON text.

        An array at the root is a column of lists, its objects are structs of such fields.
        """
        if self.is_list:
            item = resolved(self.schema, self.schema).get("items", {})
            inner = pa.struct(self.of_item.columns) if self.of_item else self._arrow_type(item)
            return [column(ITEMS, pa.list_(inner), str(self.schema.get("description", ITEMS)))]
        return [
            column(name, self._arrow_type(schema), str(resolved(schema, self.schema).get("description", name)))
            for name, schema in self.properties.items()
        ]

    @property
    def are_plain(self) -> bool:
        """Whether there is one value of each, none of them a list or an object."""
        nested = {"array", "object"}
        return not self.is_list and not any(
            nested & types_of(schema, self.schema) for schema in self.properties.values()
        )

    def question(self, name: str) -> str:
        """What asks for a field by its name and description."""
        schema = resolved(self.properties[name], self.schema)
        described = next((str(schema[key]) for key in ("description", "title") if schema.get(key)), "")
        if described.endswith("?"):
            return described
        asked = f"What is the {name.replace('_', ' ').strip()}"
        return f"{asked}, that is: {described}?" if described else f"{asked}?"

    def read_field(self, name: str, answer: str) -> Reading:
        """What a plain answer says of a field, in the type its schema wants."""
        schema, text = self.properties[name], answer.strip()
        try:
            value = self._value(schema, text)
        except ValueError as error:
            return Reading(None, f"{_short(text)} {error}", answer)
        return self.judge(name, value)._replace(said=answer)

    def read_record(self, answer: str) -> dict[str, Reading] | None:
        """What an answer in JSON says of the fields it states; None when it holds nothing of the kind.

        Of several objects it is the last that the schema allows, or the last that states a field at all; the schema
        itself is none, and one that says something, but of no field, is none either ({"result": {"title": ...}}).

        Raises:
            CutOffError: it ends inside its JSON.
        """
        records = [record for value in json_values(answer) for record in self._records(value)]
        named = [record for record in records if record.keys() & self.properties.keys()]
        if not (named or {} in records):
            return None
        readings = [self._read(record) for record in named or [{}]]
        allowed = [reading for reading in readings if not any(one.problem for one in reading.values())]
        complete = [reading for reading in allowed if not self.broken_rules(_values(reading))]
        return (complete or readings)[-1]

    def read_begun(self, begun: str) -> dict[str, Reading]:
        """What JSON without an end says of the fields that have one."""
        return {} if self.is_list else self._read(whole_members(begun))

    def _read(self, record: Mapping[str, Any]) -> dict[str, Reading]:
        """A record, field by field."""
        readings = {name: self.judge(name, record[name]) for name in self.properties if self._is_stated(name, record)}
        if self.quotes:
            for name, one in readings.items():
                quote = record.get(quote_of(name))
                if one.value is not None and isinstance(quote, str):
                    readings[name] = one._replace(quote=quote)
        return readings

    def choose(self, readings: Sequence[Reading]) -> Reading | None:
        """The first reading with a value, or the first with a problem, or the first null; None when there is none."""
        stated = [one for one in readings if one.value is not None]
        return next(iter([*stated, *(one for one in readings if one.problem), *readings]), None)

    def joined(self, readings: Sequence[Reading]) -> Reading:
        """The lists of all readings as one list; a problem when one of them has one."""
        problem = next((one for one in readings if one.problem), None)
        return problem or self.judge(ITEMS, [item for one in readings for item in one.value])

    def of_one(self, item: Mapping[str, Reading]) -> dict[str, Reading]:
        """The list of one object, of which `item` is what was read, and what of that failed."""
        failed = {name: one for name, one in item.items() if one.problem}
        good = {name: one.value for name, one in item.items() if one.value is not None}
        return failed if failed and not good else {**failed, ITEMS: self.judge(ITEMS, [good] if good else [])}

    def checked(self, chosen: Mapping[str, Reading], output: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Column values, null where a field is not stated or failed, and why those failed.

        Raises:
            AnswerError: a required field failed, another rule of the schema is broken, or no field is left.
        """
        good = {name: one.value for name, one in chosen.items() if one.problem is None}
        failed = {name: one.problem for name, one in chosen.items() if one.problem is not None}
        columns = {field.name: _cell(field.type, good.get(field.name)) for field in self.columns}
        problems = self.broken_rules(good)
        if problems or (failed and all(value is None for value in good.values())):
            reasons = [*(f"field {name}: {problem}" for name, problem in failed.items()), *problems]
            raise AnswerError("; ".join(reasons), output=output, columns=columns)
        return columns, failed

    def _arrow_type(self, schema: Any) -> pa.DataType:
        return _ARROW_TYPES.get(self._json_type(schema), pa.string())

    def _json_type(self, schema: Any) -> str:
        """The one type besides null that a schema allows; "" when it allows several."""
        types = types_of(schema, self.schema) - {"null"}
        if types == {"integer", "number"}:
            return "number"
        return next(iter(types)) if len(types) == 1 else ""

    def _value(self, schema: dict[str, Any], text: str) -> Any:
        """The value that `text` is; ValueError, as a predicate, when it is not plainly one."""
        constants = [value for value in constants_of(schema, self.schema) if value is not None]
        spelled = [value for value in constants if _spelling(value) == _spelling(text)]
        if text in constants or len(spelled) == 1:
            return text if text in constants else spelled[0]
        match self._json_type(schema):
            case "integer" | "number" as kind:
                number = read_number(text, decimal_of(schema, self.schema))
                if not math.isfinite(float(number)):
                    raise ValueError("is too large")
                is_whole = number == number.to_integral_value()  # a whole number that no float is stays what it is
                return int(number) if is_whole and (kind == "integer" or number != float(number)) else float(number)
            case "boolean":
                if (word := _spelling(text)) not in _TRUTHS:
                    raise ValueError("is not plainly yes or no")
                return _TRUTHS[word]
            case "array" | "object" as kind:
                found = [value for value in json_values(text) if isinstance(value, list if kind == "array" else dict)]
                if not found:
                    raise ValueError(f"holds no JSON {kind}")
                return found[-1]
        return text

    def _records(self, value: Any) -> list[dict[str, Any]]:
        """The record that one JSON value of an answer is, if it is one."""
        if self.is_list:
            return [{ITEMS: value}] if isinstance(value, list) else []
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        return [value] if isinstance(value, dict) and not self._echoes(value) else []

    def _echoes(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is the schema once more, or nearly so, whose "title" would be taken for one."""
        said = record.get("properties")
        is_like_it = isinstance(said, dict) and self.properties.keys() <= said.keys()
        return record == self.schema or (is_like_it and "properties" not in self.properties)

    def _is_stated(self, name: str, record: Mapping[str, Any]) -> bool:
        """Whether `record` says something of a field; null says nothing where it is not allowed."""
        if record.get(name) is None:
            return name in record and bool(self._validator.evolve(schema=self.properties[name]).is_valid(None))
        return True

    def judge(self, name: str, value: Any) -> Reading:
        """`value` as a reading: a problem when the field's schema, or its column, does not allow it."""
        checker = self._validator.evolve(schema=self.properties[name])
        field = next(field for field in self.columns if field.name == name)
        try:
            problems = [_described(error) for error in checker.iter_errors(value)]
            if not problems:
                _cell(field.type, value)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError) as error:
            problems = [f"{_short(value)} does not fit {field.type}: {error}"]
        except RecursionError:
            problems = [f"{_short(value)} is nested too deeply"]
        return Reading(None, "; ".join(problems)) if problems else Reading(value)

    def broken_rules(self, record: Mapping[str, Any]) -> list[str]:
        """Rules about the record as a whole that it breaks; its values are allowed one by one."""
        if self.is_list:
            return [] if ITEMS in record else ["no list is stated"]
        return [f"the object: {_described(error)}" for error in self._validator.iter_errors(record)]

    @cached_property
    def _validator(self) -> Any:
        return validator(self.schema)


def _values(readings: Mapping[str, Reading]) -> dict[str, Any]:
    return {name: one.value for name, one in readings.items()}


def _spelling(value: Any) -> str:
    """A constant or an answer as it is compared: no quotes, no full stop, in one case."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.strip(AROUND).rstrip(".!").rstrip(AROUND).casefold()


def _cell(kind: pa.DataType, value: Any) -> Any:
    """`value` as a column of this type holds it.

    Raises:
        pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError: it cannot.
    """
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_cell(kind.value_type, item) for item in value]
    if pa.types.is_struct(kind):
        if not isinstance(value, Mapping):
            raise TypeError("it is no object")
        return {field.name: _cell(field.type, value.get(field.name)) for field in kind}
    if kind == pa.string():
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    elif kind == pa.int64():
        value = int(value)
    elif kind == pa.float64() and not math.isfinite(float(value)):
        raise ValueError("it is too large")
    return pa.scalar(value, kind).as_py()


def _described(error: Any) -> str:
    """Value and rule of one violation, and where inside the field it is."""
    where = error.json_path.removeprefix("$").removeprefix(".")
    rule = f"breaks {error.validator}: {_short(error.validator_value)}"
    return f"{where}: {_short(error.instance)} {rule}" if where else f"{_short(error.instance)} {rule}"


def _short(value: Any) -> str:
    """`value` as JSON, bounded."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."
