"""JSON Schemas that are safe to check answers with: no reference out of them, patterns in linear time, bounded size.

Knows nothing of answers or columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema
from referencing import Registry

from corm_batch.tasks.formats import FORMATS
from corm_batch.tasks.numbers import DECIMAL_MARKS, DecimalMark

_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # values are schemas
_DATA = ("enum", "const", "default", "examples")  # values are no schemas, whatever they look like
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")  # about the same value
_LEAVING = ("$dynamicRef", "$recursiveRef")
_OWN = re.compile(r"#/(\$defs|definitions)/.")
_METASCHEMA = re.compile(r"https?://json-schema\.org/")
_MOST_CHECKS = 10_000


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as JSON has it (every key a text), once it is a JSON Schema of an object with properties or an array.

    Raises:
        ValueError: what is wrong, and where.
    """
    try:
        schema = json.loads(json.dumps(schema))
        Draft202012Validator.check_schema(schema, format_checker=FORMATS)
        for path, part in _subschemas(schema, "$", root=True):
            _check_part(part, path, schema)
        known: dict[str, int] = {}
        for path, part in _subschemas(schema, "$", root=True):
            _check_size(part, path, schema, known, ())
    except SchemaError as error:
        raise ValueError(f"no valid JSON Schema: {error.json_path}: {error.message}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"no valid JSON Schema: {error}") from error
    target = resolved(schema, schema)
    if target.get("type") == "array":
        return schema
    properties = target.get("properties")
    if target.get("type") != "object" or not properties or not all(isinstance(p, dict) for p in properties.values()):
        raise ValueError("must have type: object, and properties that each have a schema, or type: array")
    return schema


def check_columns(schema: dict[str, Any]) -> dict[str, Any]:
    """The same of a schema whose properties are columns, or are those of a list's objects: what it requires has one.

    Raises:
        ValueError: what is wrong, and where.
    """
    schema = check_schema(schema)
    record = resolved(schema, schema)
    if record["type"] == "array":
        items = record.get("items")
        record = resolved(items, schema) if isinstance(items, dict) else {}
    properties = record.get("properties", {})
    if properties and (others := [name for name in record.get("required", ()) if name not in properties]):
        raise ValueError(f"required names {', '.join(others)}; the properties are {', '.join(properties)}")
    return schema


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """What checks values against a checked schema, formats included; it can reach nothing outside the schema."""
    checker: Draft202012Validator = _Validator(schema, registry=Registry(), format_checker=FORMATS)
    return checker


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with its `$ref`, or the one schema of its `allOf`, put in; `root` holds the $defs."""
    found = dict(schema)
    while "$ref" in found or len(found.get("allOf", ())) == 1:
        target = target_of(found.pop("$ref"), root) if "$ref" in found else found.pop("allOf")[0]
        found = {**target, **found} if isinstance(target, Mapping) else found
    return found


def types_of(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """JSON types a value may have; "number" stands for what is no integer, `type: number` for both."""
    if isinstance(schema, bool):
        return _TYPES if schema else frozenset()
    types = _TYPES
    if "$ref" in schema:
        types &= types_of(target_of(schema["$ref"], root), root)
    if named := schema.get("type"):
        listed = {named} if isinstance(named, str) else set(named)
        types &= listed | ({"integer"} if "number" in listed else set())
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if values is not None:
            types &= {_type_of(value) for value in values}
    for key in ("anyOf", "oneOf"):
        if key in schema:
            types &= frozenset().union(*(types_of(part, root) for part in schema[key]))
    for part in schema.get("allOf", ()):
        types &= types_of(part, root)
    return types


def constants_of(schema: Any, root: Mapping[str, Any]) -> list[Any]:
    """The values that `enum` and `const` list, of the schema itself and of those it stands for."""
    found = []
    for part in _stands_for(schema, root):
        found += [*part.get("enum", ()), *([part["const"]] if "const" in part else ())]
    return found


def only_values(schema: Any, root: Mapping[str, Any]) -> list[Any] | None:
    """All values that a schema allows, where it lists them; None where it does not."""
    if not isinstance(schema, dict):
        return None
    schema = resolved(schema, root)
    if "enum" in schema or "const" in schema:
        return list(schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "null":
        return [None]
    parts = [only_values(part, root) for key in ("anyOf", "oneOf") for part in schema.get(key, ())]
    return None if not parts or None in parts else [value for part in parts for value in part or ()]


def decimal_of(schema: Any, root: Mapping[str, Any]) -> DecimalMark | None:
    """What marks decimals, as the keyword `decimal` says; None when it stands nowhere."""
    return next((part["decimal"] for part in _stands_for(schema, root) if "decimal" in part), None)


def _stands_for(schema: Any, root: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema itself, and all whose values it may have."""
    if isinstance(schema, dict):
        yield schema
        parts = [target_of(schema["$ref"], root)] if "$ref" in schema else []
        for part in [*parts, *(part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ()))]:
            yield from _stands_for(part, root)


def _type_of(value: Any) -> str:
    """The JSON type of a value; 3.0 is an integer there."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def target_of(ref: str, root: Any) -> Any:
    """What a `$ref` into the schema's own $defs stands for; None when nothing does."""
    for part in unquote(ref).removeprefix("#/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        root = root.get(key) if isinstance(root, Mapping) else None
    return root


def _subschemas(schema: Any, path: str, *, root: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside `schema`, itself first, with its path."""
    if not isinstance(schema, dict):
        return
    yield ("" if root else path), schema
    for key, value in schema.items():
        if key in _DATA:
            continue
        if key in _NAMED and isinstance(value, dict):
            inside = [(f"{path}.{key}.{name}", part) for name, part in value.items()]
        elif isinstance(value, list):
            inside = [(f"{path}.{key}[{index}]", part) for index, part in enumerate(value)]
        else:
            inside = [(f"{path}.{key}", value)]
        for where, part in inside:
            yield from _subschemas(part, where)


def _check_part(part: dict[str, Any], path: str, root: dict[str, Any]) -> None:
    """Refuse references that leave `root`, and patterns that cannot be matched in linear time."""
    at = path or "$"
    for key in _LEAVING:
        if key in part:
            raise ValueError(f"{at}: {key} is not supported: a schema may refer to its own $defs by $ref alone")
    ref = part.get("$ref")
    if ref is not None and not (_OWN.match(ref) and isinstance(target_of(ref, root), dict | bool)):
        raise ValueError(f"{at}: $ref {ref!r} is not supported: it must lead to a schema in its own $defs")
    if path and ("$id" in part or "$schema" in part):
        raise ValueError(f"{at}: $id and $schema may stand at the root alone")
    if not _METASCHEMA.match(part.get("$schema", "https://json-schema.org/")):
        raise ValueError(f"{at}: $schema {part['$schema']!r} is not of json-schema.org")
    if "decimal" in part and part["decimal"] not in DECIMAL_MARKS:
        raise ValueError(f'{at}: decimal is {part["decimal"]!r}; it takes "." or ","')
    others = part.keys() & {"additionalProperties", "unevaluatedProperties"}
    if "patternProperties" in part and others:
        raise ValueError(f"{at}: patternProperties beside {', '.join(sorted(others))} is not supported")
    for pattern in [*([part["pattern"]] if "pattern" in part else []), *part.get("patternProperties", {})]:
        try:
            _compiled(pattern)
        except PatternError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ValueError(f"{at}: pattern {pattern!r} cannot be matched in bounded time: {reason}") from error


def _check_size(part: Any, path: str, root: Any, known: dict[str, int], active: tuple[str, ...]) -> int:
    """Schemas that one value is checked against, as references put them in place; refuses loops and too many."""
    if not isinstance(part, dict):
        return 1
    size = 1
    inside: list[Any] = []
    for key in part.keys() & set(_IN_PLACE):
        value = part[key]
        inside += value if isinstance(value, list) else value.values() if key in _NAMED else [value]
    if "$ref" in part:
        ref = part["$ref"]
        if ref in active:
            raise ValueError(f"{path or '$'}: $ref {ref!r} stands for itself")
        if ref not in known:
            known[ref] = _check_size(target_of(ref, root), path, root, known, (*active, ref))
        size += known[ref]
    size += sum(_check_size(inner, path, root, known, active) for inner in inside)
    if size > _MOST_CHECKS:
        raise ValueError(f"{path or '$'}: its references make more than {_MOST_CHECKS:,} schemas for one value")
    return size


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> SchemaValidator:
    """A pattern in pydantic's engine, which takes linear time and bounded memory whatever the pattern."""
    return SchemaValidator(core_schema.str_schema(pattern=pattern))


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern, of pydantic's dialect, matches anywhere in a text."""
    return _compiled(pattern).isinstance_python(text)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    """The keyword `pattern`."""
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(checker: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """The keyword `patternProperties`."""
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from checker.descend(value, schema, path=name, schema_path=pattern)


def _multiple_of(checker: Any, step: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    """The keyword `multipleOf`, of numbers as they are written: 19.99 is one of 0.01, though its float is none."""
    if checker.is_type(instance, "number") and (Fraction(str(instance)) / Fraction(str(step))).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


_KEYWORDS = {"pattern": _pattern, "patternProperties": _pattern_properties, "multipleOf": _multiple_of}
_Validator = validators.extend(Draft202012Validator, _KEYWORDS)  # type: ignore[no-untyped-call]
