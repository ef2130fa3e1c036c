"""`corm-batch policies`: what `policy.name` in a spec may be, with the fields of each."""

from __future__ import annotations

from typing import Any

from corm_batch.cli.console import label, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Plugins


def policies(
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List the cache policies, their fields and defaults."""
    from corm_batch.policies.base import KVPolicy

    known = KVPolicy.registered()
    fields = {name: _fields(policy.model_json_schema()) for name, policy in known.items()}
    if as_json:
        print_json([{"name": name, "summary": known[name].summary(), "fields": fields[name]} for name in known])
        return
    console = output_console()
    for name, policy in known.items():
        title = f"{name}: {policy.summary()}"
        if fields[name]:
            columns = [label("field"), label("type"), label("default"), prose("meaning")]
            print_table(console, title, columns, [list(field.values()) for field in fields[name]])
        else:
            console.print(f"{title} No fields.\n", style="bold", soft_wrap=True)


def _fields(schema: dict[str, Any]) -> list[dict[str, str]]:
    """Name, type, default and meaning of each field of a pydantic JSON schema."""
    return [
        {
            "name": name,
            "type": _type(field),
            "default": "required" if name in schema.get("required", ()) else _default(field.get("default")),
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _type(field: dict[str, Any]) -> str:
    """A JSON schema type as `step | cache`, `integer | null`, `number`."""
    if "enum" in field:
        return " | ".join(str(choice) for choice in field["enum"])
    if "anyOf" in field:
        return " | ".join(_type(choice) for choice in field["anyOf"])
    return str(field.get("type", "any"))


def _default(value: Any) -> str:
    """A default as YAML spells it."""
    return "null" if value is None else str(value)
