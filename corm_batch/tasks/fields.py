"""Fields of a JSON Schema: which columns they make, what answers say of them, and whether that is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from corm_batch.data.schema import column
from corm_batch.errors import AnswerError

ABSENT = object()
_ARROW_TYPES = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?")
_TRUTHS = {"yes": True, "true": True, "no": False, "false": False}
_FORMATS = Draft202012Validator.FORMAT_CHECKER


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as JSON has it (every key a text), once it is a JSON Schema of an object with properties.

    Raises:
        ValueError: what is wrong, and where.
    """
    try:
        schema = json.loads(json.dumps(schema))
        Draft202012Validator.check_schema(schema, format_checker=_FORMATS)
    except SchemaError as error:
        raise ValueError(f"no valid JSON Schema: {error.json_path}: {error.message}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"no valid JSON Schema: {error}") from error
    properties = schema.get("properties")
    if schema.get("type") != "object" or not properties or not all(isinstance(p, dict) for p in properties.values()):
        raise ValueError("must have type: object, and properties that each have a schema")
    if '"$ref":' in json.dumps(schema):
        raise ValueError("$ref is not supported: write the schema out")
    return schema


class Fields:
    """The properties of a checked schema.

    Attributes:
        properties: name to schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.properties: dict[str, dict[str, Any]] = schema["properties"]
        self._validator = Draft202012Validator(schema, format_checker=_FORMATS)

    @property
    def columns(self) -> list[pa.Field]:
        """One Arrow column for each field: integers, numbers and booleans as such, all else as text or JSON text."""
        return [
            column(name, _ARROW_TYPES.get(_json_type(schema), pa.string()), str(schema.get("description", name)))
            for name, schema in self.properties.items()
        ]

    def choose(self, name: str, values: Sequence[Any]) -> Any:
        """The first of `values` the field's schema allows, null only when all are; ABSENT when none is stated.

        When the schema allows none of them it is the first, for `checked` to say why not.
        """
        stated = [value for value in values if value is not None]
        allowed = self._validator.evolve(schema=self.properties[name])
        choices = [*filter(allowed.is_valid, stated), *stated, *(value for value in values if allowed.is_valid(value))]
        return choices[0] if choices else ABSENT

    def checked(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Column values of `record`, null where it lacks a field.

        Raises:
            AnswerError: the schema, or the column's type, does not allow a value; field, value and rule.
        """
        if problems := sorted(self._validator.iter_errors(record), key=lambda error: error.json_path):
            raise AnswerError("; ".join(map(_described, problems)))
        return {field.name: self._cell(field, record.get(field.name)) for field in self.columns}

    @staticmethod
    def _cell(field: pa.Field, value: Any) -> Any:
        """`value` as the column holds it."""
        if value is None:
            return None
        try:
            cell: Any
            if field.type == pa.string():
                cell = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            else:
                cell = int(value) if field.type == pa.int64() else value
            return pa.scalar(cell, field.type).as_py()
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError) as error:
            raise AnswerError(f"field {field.name}: {_short(value)} does not fit {field.type}: {error}") from error


def parse_object(answer: str) -> dict[str, Any] | None:
    """The first JSON object in `answer`, whatever stands around it (code fences, words); None when there is none."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for brace in re.finditer(r"\{", answer):
        try:
            found, _ = decoder.raw_decode(answer, brace.start())
        except ValueError:
            continue
        except RecursionError:
            return None
        assert isinstance(found, dict)
        return found
    return None


def from_answer(answer: str, schema: Mapping[str, Any]) -> Any:
    """What a plain answer says, in the type its schema wants; the text itself when it cannot be read so."""
    text = answer.strip()
    match _json_type(schema):
        case "integer" | "number":
            number = _NUMBER.search(text)
            return _number(number[0].replace(",", "")) if number else text
        case "boolean":
            words = re.findall(r"\w+", text.casefold())
            return _TRUTHS.get(words[0], text) if words else text
        case "array" | "object":
            try:
                return json.loads(text, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                return text
    return text


def _json_type(schema: Mapping[str, Any]) -> str:
    """The one type besides null that `schema` allows; "" when it names none or several."""
    named = schema.get("type", [])
    types = [kind for kind in ([named] if isinstance(named, str) else named) if kind != "null"]
    return types[0] if len(types) == 1 else ""


def _number(text: str) -> int | float | str:
    """The number `text` spells, whole where it is; `text` itself when it has too many digits."""
    try:
        value = float(text)
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else value
    except (ValueError, OverflowError):
        return text


def _no_constant(name: str) -> None:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(name)


def _described(error: ValidationError) -> str:
    """Field, value and rule of one violation."""
    where = error.json_path.removeprefix("$").removeprefix(".") or "the object"
    return f"field {where}: {_short(error.instance)} breaks {error.validator}: {_short(error.validator_value)}"


def _short(value: Any) -> str:
    """`value` as JSON, bounded."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 200 else f"{text[:200]}..."
