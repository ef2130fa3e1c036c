"""YAML that is safe to load: no key twice, and nothing that makes a small file a huge value. Knows nothing of specs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from corm_batch.errors import SpecError
from corm_batch.registry import shown

_MOST_CHARACTERS = 1 << 20  # of the file
_MOST_EXPANDED = 1 << 21  # characters of all values with every alias written out, and so many for each of them:
_OF_A_VALUE = 16
_MOST_BITS = 64


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key stands once: of two, the first would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, once its own keys (merged ones may be overridden) are known to differ."""
        own = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := sorted(key for key, count in own.items() if count > 1):
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """The number, unless it is one that no setting takes and that may take minutes to write out."""
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a whole number of more than {_MOST_BITS} bits", node.start_mark
            )
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load_yaml(text: str, origin: str) -> Any:
    """What YAML text says; `origin` names it in messages.

    Raises:
        SpecError: it is no YAML, has a key twice, or is too large, also by its aliases.
    """
    if len(text) > _MOST_CHARACTERS:
        raise SpecError(f"{origin}: {len(text):,} characters, of which there may be {_MOST_CHARACTERS:,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _expanded(node, {}) > _MOST_EXPANDED:
                raise SpecError(f"{origin}: its aliases stand for more than {_MOST_EXPANDED:,} characters")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except SpecError:
        raise
    except Exception as error:  # odd tags and nesting raise KeyError, IndexError, RecursionError, ...
        raise SpecError(f"{origin}: no valid YAML: {type(error).__name__}: {error}{_hint(error, text)}") from error


def _hint(error: Exception, text: str) -> str:
    """What helps where a text with a brace is not in quotes, which YAML takes for one of its own."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return ""
    if text[max(0, mark.index - 1) : mark.index + 1] == "${":
        return '\nWithin { } a text that holds ${NAME} has to stand in quotes: {uri: "${NAME}/inbox"}'
    template = "{{" in text.split("\n")[mark.line]
    return '\nA template that begins with {{ has to stand in quotes: template: "{{ text }}"' if template else ""


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """Characters of a value with every alias written out, by each node's own id in `known`.

    Raises:
        ValueError: it holds itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return _OF_A_VALUE + len(node.value)
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias stands inside what it stands for")
        return known[id(node)]
    known[id(node)] = 0
    parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
    known[id(node)] = _OF_A_VALUE + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def overridden(data: Any, override: str) -> Any:
    """`data` with one `a.b=value` set in it.

    Raises:
        SpecError: it has another form, or sets something inside a value.
    """
    path, separator, value = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise SpecError(f"--set {shown(override)}: expected section.field=value")
    return _with(data, keys, load_yaml(value, f"--set {path}"), path)


def _with(data: Any, keys: Sequence[str], value: Any, path: str) -> Any:
    """`data` with `value` under the nested `keys`; levels that are missing are made."""
    if not keys:
        return value
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise SpecError(f"--set {path}: {keys[0]!r} stands below {shown(data)}, which has no fields")
    return {**data, keys[0]: _with(data.get(keys[0]), keys[1:], value, path)}
