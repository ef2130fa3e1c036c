"""spec_schema(): the JSON Schema of a spec, by which editors complete and check one.

It is what the classes of the sections say, plug-ins with their names, and beside each field its unit and an example.
What only two fields together make impossible, the spec itself says when it is read. Knows nothing of how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corm_batch.budgets.base import Budget
from corm_batch.cli.field_values import example_of, unit_of
from corm_batch.data.sources.base import Source
from corm_batch.policies.base import KVPolicy
from corm_batch.policies.defaults import DEFAULTS
from corm_batch.propagation.base import Propagation
from corm_batch.registry import Plugin
from corm_batch.spec import JobSpec
from corm_batch.storage.base import Storage
from corm_batch.tasks.base import Task

KINDS: tuple[type[Plugin], ...] = (Source, Task, KVPolicy, Budget, Storage, Propagation)
_QUESTION = {
    "enum": [*DEFAULTS, None],
    "default": None,
    "description": "whether what is asked is known when a text is compressed; without a name it chooses the policy",
    "examples": ["unknown"],
}


def spec_schema(*, own: bool = True) -> dict[str, Any]:
    """The schema, of draft 2020-12.

    Args:
        own: with plug-ins that do not come with the package, as far as they are loaded.
    """
    whole = JobSpec.model_json_schema()
    found: dict[str, Any] = whole.pop("$defs")
    for name, section in found.items():
        found[name] = _with_values(section, name.removesuffix("Section").removesuffix("Config").lower())
    for field in whole["properties"].values():
        reference = field.get("$ref", field.get("anyOf", [{}])[0].get("$ref", "")).rpartition("/")[2]
        if reference:
            field.setdefault("description", found[reference]["description"].partition("\n")[0])
    for kind in KINDS:
        found[kind.__name__] = {"anyOf": [_named(found, plugin) for plugin in _plugins(kind, own=own)]}
    found["Storage"]["anyOf"].append({"enum": [plugin.name for plugin in _plugins(Storage, own=own)]})
    found["KVPolicy"]["anyOf"] += list(_unnamed_policies(found))
    whole = _with_values(whole, "")
    task = whole["properties"]["task"]
    task["anyOf"] = [{"$ref": task.pop("$ref")}, {"type": "null"}]
    whole["required"].remove("task")
    whole["oneOf"] = [
        {"required": ["task"], "properties": {"task": {"not": {"type": "null"}}, "tasks": {"type": "null"}}},
        {"required": ["tasks"], "properties": {"task": {"type": "null"}, "tasks": {"minProperties": 1}}},
    ]
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return dict(_with_references({**whole, "title": "corm-batch job", "$defs": dict(sorted(found.items()))}))


def _plugins(kind: type[Plugin], *, own: bool) -> list[type[Plugin]]:
    return [plugin for plugin in kind.registered().values() if own or plugin.__module__.startswith(f"{kind.package}.")]


def _named(found: dict[str, Any], plugin: type[Plugin]) -> dict[str, str]:
    """A reference to a plug-in's section, which is put into `found` under `kind.name`."""
    section = plugin.model_json_schema()
    for name, inner in section.pop("$defs", {}).items():
        found.setdefault(name, _with_values(inner, f"{plugin.kind}.{plugin.name}"))
    section = _with_values(section, f"{plugin.kind}.{plugin.name}")
    section["properties"] = {"name": {"const": plugin.name}, **section.get("properties", {})}
    section["required"] = ["name", *section.get("required", ())]
    section["title"] = f"{plugin.kind} {plugin.name}"
    if plugin.kind == "policy":
        section["properties"]["question"] = _QUESTION
    found[f"{plugin.kind}.{plugin.name}"] = section
    return {"$ref": f"#/$defs/{plugin.kind}.{plugin.name}"}


def _unnamed_policies(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A policy without a name: an empty section, or `question` and fields of the default that this means."""
    yield {"maxProperties": 0}
    for question, default in DEFAULTS.items():
        named = found[f"policy.{default['name']}"]
        properties = {name: field for name, field in named["properties"].items() if name != "name"}
        properties["question"] = {"const": question, "description": _QUESTION["description"]}
        yield {
            **named,
            "title": f"the default where the question is {question}",
            "properties": properties,
            "required": ["question"],
        }


def _with_values(section: dict[str, Any], path: str) -> dict[str, Any]:
    """A section whose fields have their units and examples."""
    fields = {}
    for name, field in section.get("properties", {}).items():
        shown = {key: value for key, value in field.items() if key != "title"}
        if unit := unit_of(name):
            shown["unit"] = unit
        fields[name] = {**shown, "examples": [example_of(path, name, shown)]}
    return {**section, "properties": fields} if fields else section


def _with_references(value: Any) -> Any:
    """The schema with a reference where a field says that it holds a plug-in of a kind."""
    kinds = {kind.kind: kind.__name__ for kind in KINDS}
    if isinstance(value, list):
        return [_with_references(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if isinstance(kind := value.get("type"), str) and kind in kinds:
        return {**{key: entry for key, entry in value.items() if key != "type"}, "$ref": f"#/$defs/{kinds[kind]}"}
    return {key: entry if key in ("examples", "default") else _with_references(entry) for key, entry in value.items()}
