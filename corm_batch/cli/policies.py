"""`corm-batch policies`: what `policy.name` in a spec may be, with the fields of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from corm_batch.cli.console import label, output_console, print_json, print_table, prose


def policies(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array on standard output.")] = False,
) -> None:
    """List the cache policies, their fields and defaults."""
    from corm_batch.policies.base import KVPolicy

    described = [
        {"name": name, "summary": policy.summary(), "fields": _fields(policy.model_json_schema())}
        for name, policy in KVPolicy.registered().items()
    ]
    if as_json:
        print_json(described)
        return
    console = output_console()
    for policy in described:
        rows = [[field["name"], field["type"], field["default"], field["description"]] for field in policy["fields"]]
        title = f"{policy['name']}: {policy['summary']}"
        if rows:
            print_table(console, title, [label("field"), label("type"), label("default"), prose("meaning")], rows)
        else:
            console.print(f"{title} No fields.\n", style="bold", soft_wrap=True)


def _fields(schema: dict[str, Any]) -> list[dict[str, str]]:
    """Name, type, default and meaning of each field of a pydantic JSON schema."""
    return [
        {
            "name": name,
            "type": _type(field),
            "default": "required" if name in schema.get("required", ()) else str(field.get("default")),
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
