"""fields_text(): every field of a spec as Markdown, with type, default, unit, an example and what it means.

Made of the JSON Schema alone, so that it says what that says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corm_batch.cli.spec_schema import KINDS, spec_schema

_SECTIONS = {
    "model": "ModelSection",
    "engine": "EngineConfig",
    "cluster": "ClusterSection",
    "cluster.replicas": "ReplicaRange",
    "verify": "VerifyConfig",
    "output": "OutputSection",
    "task.messages": "MessageTemplate",
}
_KINDS = {
    "Source": "source",
    "Task": "task",
    "KVPolicy": "policy",
    "Budget": "policy.budget",
    "Storage": "engine.storage",
    "Propagation": "engine.propagation",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
_HEAD = """# Every field of a spec

Made by `corm-batch schema --markdown`. For an editor, which then completes a spec and marks what is wrong in it,
`corm-batch schema` prints the same as a JSON Schema; in a file beside the spec it is named by the spec's first line:

```yaml
# yaml-language-server: $schema=job.schema.json
```

A field without a default has to be given. Where a default is null, what it means then is said.
"""


def fields_text() -> str:
    """The document, of what comes with the package."""
    schema = spec_schema(own=False)
    defs = schema["$defs"]
    names = {kind.__name__: kind.kind for kind in KINDS}
    parts = [_HEAD, "\n## The spec\n\n", *_table(schema["properties"], ["name", "model", "source", "task", "output"])]
    for path, name in _SECTIONS.items():
        parts += [
            f"\n## {path}\n\n{_first(defs[name])}\n\n",
            *_table(defs[name]["properties"], defs[name].get("required", ())),
        ]
    for name, path in _KINDS.items():
        plugins = {key.partition(".")[2]: section for key, section in defs.items() if key.startswith(f"{names[name]}.")}
        parts += _kind(path, plugins)
    return "".join(parts)


def _kind(path: str, plugins: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The plug-ins of one kind: the fields that are the same in all of them, then those of each."""
    yield f"\n## {path}\n\n"
    first, *others = plugins.values()
    shared = {
        name: field
        for name, field in first["properties"].items()
        if name != "name" and all(other["properties"].get(name) == field for other in others)
    }
    yield from (f"`name: {name}`: {_first(section)}\n\n" for name, section in plugins.items())
    if shared:
        yield "Every one has\n\n"
        yield from _table(shared, first.get("required", ()))
    for name, section in plugins.items():
        rest = {key: field for key, field in section["properties"].items() if key != "name" and key not in shared}
        if rest:
            yield f"\n### {path}: {name}\n\n"
            yield from _table(rest, section.get("required", ()))


def _table(fields: Mapping[str, Any], required: Sequence[str]) -> Iterator[str]:
    yield "| field | type | default | unit | example | meaning |\n|---|---|---|---|---|---|\n"
    for name, field in fields.items():
        default = "" if name in required else _code(json.dumps(field.get("default"), ensure_ascii=False))
        example = _code(json.dumps(field["examples"][0], ensure_ascii=False))
        cells = (f"`{name}`", _type(field), default, field.get("unit", ""), example, field.get("description", ""))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _code(text: str) -> str:
    """In backticks, of which a text may hold some."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _type(field: Mapping[str, Any]) -> str:
    """`integer from 1 on or null`."""
    if "enum" in field:
        return " or ".join(_code(json.dumps(choice)) for choice in field["enum"])
    if "const" in field:
        return _code(json.dumps(field["const"]))
    if choices := field.get("anyOf", field.get("oneOf")):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if "$ref" in field:
        return "section"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    return f"{kind}{_range(field)}"


def _range(field: Mapping[str, Any]) -> str:
    """What a number has to be."""
    said = [f"{word} {field[key]:g}" for key, word in _BOUNDS.items() if key in field]
    return f" {' '.join(said)}" if said else ""


def _first(section: Mapping[str, Any]) -> str:
    """The first paragraph of what is said of a section."""
    return " ".join(str(section.get("description", "")).partition("\n\n")[0].split())
