"""`corm-batch policies`: what `policy.name`, `policy.budget.name`, `engine.propagation.name` and `engine.storage.name`
in a spec may be, and `--weights` of `corm-batch convert`, with the fields of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corm_batch.cli.console import label, output_console, print_json, print_table, prose
from corm_batch.cli.options import AsJson, Plugins

if TYPE_CHECKING:
    from corm_batch.registry import Plugin


def policies(
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List the cache policies, the budgets they take, the propagations and forms of storage beside them, and what
    `convert` makes of a model's weights, with their fields and defaults."""
    from corm_batch.budgets.base import Budget
    from corm_batch.policies.base import KVPolicy
    from corm_batch.propagation.base import Propagation
    from corm_batch.storage.base import Storage
    from corm_batch.weights.base import Weights

    kinds: list[type[Plugin]] = [KVPolicy, Budget, Propagation, Storage, Weights]
    known = [plugin for kind in kinds for plugin in kind.registered().values()]
    described: list[dict[str, Any]] = [
        {"kind": plugin.kind, "name": plugin.name, "summary": plugin.summary(), "fields": _fields(plugin)}
        | _judges(plugin)
        | ({"needs_fp8": plugin.needs_fp8} if issubclass(plugin, Storage) else {})
        | ({"needs": plugin.needs} if issubclass(plugin, Weights) else {})
        for plugin in known
    ]
    if as_json:
        print_json(described)
        return
    console = output_console()
    for plugin in described:
        prefix = "" if plugin["kind"] == "policy" else f"{plugin['kind']} "
        blind = " Judges without the question." if plugin.get("looks_for_question") is False else ""
        card = " Needs a GPU of compute capability 8.9 or newer, or a CPU." if plugin.get("needs_fp8") else ""
        needs = f" Needs {plugin['needs']}." if "needs" in plugin else ""
        title = f"{prefix}{plugin['name']}: {plugin['summary']}{blind}{card}{needs}"
        if plugin["fields"]:
            columns = [label("field"), label("type"), label("default"), prose("meaning")]
            print_table(console, title, columns, [list(field.values()) for field in plugin["fields"]])
        else:
            console.print(f"{title} No fields.\n", style="bold", soft_wrap=True)


def _judges(plugin: type[Plugin]) -> dict[str, bool]:
    """Whether a policy looks for the question, where it can tell without the fields that it has to be given."""
    looks = getattr(plugin.model_construct(), "looks_for_question", None)
    return {} if looks is None else {"looks_for_question": looks}


def _fields(plugin: type[Plugin]) -> list[dict[str, str]]:
    """Name, type, default and meaning of each field."""
    schema = plugin.model_json_schema()
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
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_default(each)}' for name, each in value.items())}}}"
    return "null" if value is None else str(value)
