"""The `policy:` section that a calibration makes, and putting it into a spec without losing a word of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from corm_batch.calibration.result import Calibration, Tried
from corm_batch.calibration.words import promise
from corm_batch.data.filesystem import read_whole, write_whole
from corm_batch.data.uri import resolve_uri
from corm_batch.data.yaml_text import load_yaml
from corm_batch.errors import SpecError

_OURS, _BEFORE = "# calibrate: ", "# before: "


def section_text(result: Calibration, chosen: Tried) -> str:
    """The section, with what it promises as comments before it."""
    date, model = result.date.partition("T")[0], result.model
    lines = [f"{result.command} on {date}, {model['name']} ({model['dtype']})", *promise(result, chosen)]
    body = yaml.safe_dump({"policy": dict(chosen.policy)}, sort_keys=False, allow_unicode=True, width=120)
    return "".join(f"{_OURS}{' '.join(line.split())}\n" for line in lines) + body


def written_fields(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's fields as a spec shall have them: all of them, those that were given as they were given.

    Whoever names a file of head scores wants its name there, and a later default must not change what was measured.
    """
    known = {name: value for name, value in given.items() if name in fields}
    nested = {
        name: written_fields(fields[name], value)
        for name, value in known.items()
        if isinstance(value, Mapping) and isinstance(fields[name], Mapping)
    }
    return {**fields, **known, **nested}


def with_section(text: str, section: str) -> str:
    """A spec's text with this policy section in place of its own, which stays as a comment; all else is as it was.

    Raises:
        SpecError: the text is no mapping in block style whose policy stands on lines of its own.
    """
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    new = section.splitlines()
    start, stop = _place(text, lines)
    before = [f"{_BEFORE}{line}".rstrip() for line in lines[start:stop]]
    first = start
    while first and lines[first - 1].startswith(_OURS):
        first -= 1
    return ending.join([*lines[:first], *new, *before, *lines[stop:]]) + ending


def write_section(path: str, section: str) -> None:
    """Put this policy section into the spec at `path`, local or s3://.

    Raises:
        SpecError: it cannot be put in without changing something else; the file is as it was.
        OutputError: it cannot be written.
    """
    place = resolve_uri(path)
    text = read_whole(place).decode("utf-8")
    try:
        new = with_section(text, section)
        found, wanted = load_yaml(new, path), {**load_yaml(text, path), **load_yaml(section, "policy")}
    except SpecError as error:
        raise SpecError(f"{path}: not written: {error}: copy the section by hand") from error
    if found != wanted:
        raise SpecError(f"{path}: not written, for more than its policy would change: copy the section by hand")
    write_whole(place, new.encode("utf-8"))


def _place(text: str, lines: Sequence[str]) -> tuple[int, int]:
    """Lines of the policy section, from the first to before the last; both the end of the text where there is none."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise SpecError(f"no YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise SpecError("its sections do not stand on lines of their own")
    for key, value in root.value:
        if key.value == "policy":
            start, stop = key.start_mark.line, value.end_mark.line + (value.end_mark.column > 0)
            while stop > start + 1 and (not lines[stop - 1].strip() or lines[stop - 1].startswith("#")):
                stop -= 1
            return start, stop
    return len(lines), len(lines)
