"""AnswerSettings: everything of a job that changes an answer, by path, and how two jobs differ in it.

A setting at its default says nothing and stays out of the fingerprint: an upgrade that adds a field, or has another
default, leaves every row done. Where a later version gives other answers on purpose, it raises the `version` of the
plug-in, which counts like a setting. A setting that is no longer known counts as another one, unless it was at a value
that the plug-in lists as `gone`. Knows nothing of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from corm_batch.data.uri import is_s3
from corm_batch.engine.config import EngineConfig
from corm_batch.policies.base import KVPolicy
from corm_batch.registry import INITIAL_VERSION, SAME_ANSWERS, Plugin
from corm_batch.spec import JobSpec
from corm_batch.storage.base import Storage

SETTINGS = ("corm_batch.settings", "corm_batch.spec", "corm_batch.model_hash")
"""Where a part's metadata says under which settings its rows were answered: the first, or else the others."""
_NONE = object()  # no default, or no such setting
_JSON = TypeAdapter(Any)
_SHOWN = 80
_EXCHANGED = ("task.name", "policy.name", "policy.budget.name", "engine.storage.name", "engine.propagation.name")
"""Names of plug-ins: another one has other fields, of which nobody wants to hear."""


@dataclass(frozen=True)
class Change:
    """One setting that differs: its path in the spec and its value on both sides as JSON, "-" where there is none."""

    path: str
    before: str
    now: str

    @property
    def text(self) -> str:
        """`policy.window 64 -> 128`."""
        return f"{self.path} {_short(self.before)} -> {_short(self.now)}"


@dataclass(frozen=True)
class AnswerSettings:
    """Every setting that changes an answer.

    Attributes:
        values: by path in the spec, defaults written out; with `model.hash`, which says what weights were loaded,
            `model.version` and the `version` of each plug-in.
        told: those that were not at their defaults, in the version that answered.
        defaults: by path, where there is one; none are known of rows that a job has written.
    """

    values: Mapping[str, Any]
    told: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @classmethod
    def of(
        cls, spec: JobSpec, model_hash: str, model_version: int = INITIAL_VERSION, usual: Storage | None = None
    ) -> Self:
        """The settings of a job.

        Args:
            spec: the job.
            model_hash: says which weights were loaded (the hub's commit, a hash over a folder's files). Where a folder
                lies is therefore left out, as are source, output and cluster.
            model_version: what a plug-in's is to it: raised when the same model is to give other answers than before.
            usual: the form of entries where the spec names none; to name it is no other setting.
        """
        default = {} if usual is None else usual.to_spec()
        sections = yaml.safe_load((spec if usual is None else spec.storing(usual)).to_yaml())
        defaults = {f"engine.storage.{key}": value for key, value in default.items()}
        return cls._read(sections, model_hash, model_version, are_now=True, defaults=defaults)

    @classmethod
    def of_part(cls, metadata: Mapping[bytes, bytes]) -> Self | None:
        """The settings under which the rows of a part were answered; None when its metadata does not tell."""
        try:
            if (content := metadata.get(SETTINGS[0].encode())) is not None:
                written = json.loads(content)
                return cls(written["values"], {path: written["values"][path] for path in written["told"]}, {})
            spec = yaml.safe_load(metadata[b"corm_batch.spec"])
            return cls._read(spec, metadata[b"corm_batch.model_hash"].decode(), INITIAL_VERSION, are_now=False)
        except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError):
            return None

    @classmethod
    def _read(
        cls,
        spec: Mapping[str, Any],
        model_hash: str,
        model_version: int,
        *,
        are_now: bool,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> Self:
        """From a whole spec; `are_now`: it is of this version, and so are its plug-ins; `defaults`: by path, those that
        hang on the model."""
        spec = spec if are_now else _as_now(spec)
        policy = KVPolicy.registered().get(spec["policy"]["name"])
        read_by_policy = policy.engine_fields if policy is not None else frozenset()
        sections = {**spec, "model": {**spec["model"], "hash": model_hash}}
        found = [
            (path, value, defaults.get(path, default))
            for path, value, default in _flat(JobSpec, sections, "", read_by_policy, are_now)
            if path != "model.name" or _is_hub_id(value)
        ]
        found.append(("model.version", model_version, INITIAL_VERSION))
        return cls(
            values={path: value for path, value, _ in found},
            told={path: value for path, value, default in found if value != default},
            defaults={path: default for path, _, default in found if default is not _NONE},
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is told; a document answered under other settings is answered again."""
        return hashlib.sha256(json.dumps(self.told, sort_keys=True).encode()).hexdigest()

    def to_metadata(self) -> str:
        """What `of_part` reads, as JSON."""
        return json.dumps({"values": self.values, "told": list(self.told)})

    def same_as(self, before: AnswerSettings) -> bool:
        """Whether rows answered under `before` stand: the same was told, or every value is the same."""
        values = {path: value for path, value in before.values.items() if value != self.defaults.get(path, _NONE)}
        return self.told in (before.told, values)

    def changes(self, before: AnswerSettings) -> tuple[Change, ...]:
        """What was told otherwise under `before`, by path; of another plug-in the name alone."""
        if self.same_as(before):
            return ()
        paths = sorted(
            path for path in {*before.told, *self.told} if before.told.get(path, _NONE) != self.told.get(path, _NONE)
        )
        exchanged = tuple(path.removesuffix("name") for path in paths if _names_a_plugin(path))
        return tuple(
            change
            for path in paths
            if path.endswith(".name") or not path.startswith(exchanged)
            for change in _differences(
                path, *(side.values.get(path, self.defaults.get(path, _NONE)) for side in (before, self))
            )
        )


def _names_a_plugin(path: str) -> bool:
    """Whether another value at this path is another plug-in, with other fields."""
    return path in _EXCHANGED or (path.startswith("tasks.") and path.count(".") == 2 and path.endswith(".name"))


def _as_now(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A spec of an earlier version as this one writes it: what a policy's heads may hold is its budget's to say.

    Neither `version` nor `gone` could say so: the same number means the same answers under another path, and without
    this every row of a policy that set `max_kept` would be answered again.
    """
    policy = dict(spec["policy"])
    if "max_kept" in policy:
        most = policy.pop("max_kept")
        policy["budget"] = None if most is None else {"name": "uniform", "max_kept": most}
    return {**spec, "policy": policy}


def _is_hub_id(name: str) -> bool:
    return not is_s3(name) and not name.startswith("/")


def _flat(
    owner: type[BaseModel] | None, given: Mapping[str, Any], path: str, read_by_policy: frozenset[str], are_now: bool
) -> Iterator[tuple[str, Any, Any]]:
    """(path, value, default) of every setting of `given` that may change an answer; `owner` declares them."""
    fields = {field.alias or name: field for name, field in owner.model_fields.items()} if owner else {}
    gone = owner.gone if owner and issubclass(owner, Plugin) else {}
    for key, value in given.items():
        field = fields.get(key)
        if field is None:
            if value is not None and value not in gone.get(key, ()):
                yield f"{path}{key}", value, _NONE
            continue
        if SAME_ANSWERS in field.metadata and not (owner is EngineConfig and key in read_by_policy):
            continue
        nested, default = _nested(field), _default(field)
        if nested is None and isinstance(value, Mapping) and (plugins := _plugins(field)):
            for name, section in value.items():
                yield from _of_plugin(plugins, section, f"{path}{key}.{name}.", _NONE, read_by_policy, are_now)
            continue
        if nested is None or not isinstance(value, Mapping):
            yield f"{path}{key}", value, default
        elif not issubclass(nested, Plugin):
            yield from _flat(nested, value, f"{path}{key}.", read_by_policy, are_now)
        else:
            inner = path and isinstance(default, Mapping)  # which task and which policy is always told
            name = default["name"] if inner else _NONE
            yield from _of_plugin(nested, value, f"{path}{key}.", name, read_by_policy, are_now)


def _of_plugin(
    kind: type[Plugin], given: Mapping[str, Any], path: str, name: Any, read_by_policy: frozenset[str], are_now: bool
) -> Iterator[tuple[str, Any, Any]]:
    """The settings of one plug-in's section; `name`: that of the default one."""
    yield f"{path}name", given["name"], name
    plugin = kind.registered().get(given["name"])
    version = given.get("version", INITIAL_VERSION)
    yield f"{path}version", plugin.version if plugin and are_now else version, INITIAL_VERSION
    rest = {key: value for key, value in given.items() if key not in ("name", "version")}
    yield from _flat(plugin, rest, path, read_by_policy, are_now)


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds, which may be None; None for a field that is a value."""
    kinds = [field.annotation]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        if get_origin(kind) in (Annotated, Union, UnionType):
            kinds += get_args(kind)
    return None


def _plugins(field: FieldInfo) -> type[Plugin] | None:
    """The kind of plug-ins that a field holds by name."""
    for part in (field.annotation, *get_args(field.annotation)):
        if get_origin(part) is dict and isinstance(kind := get_args(part)[1], type) and issubclass(kind, Plugin):
            return kind
    return None


def _default(field: FieldInfo) -> Any:
    """The default as JSON has it."""
    if field.is_required():
        return _NONE
    default = field.get_default(call_default_factory=True, validated_data={})
    default = default.to_spec() if isinstance(default, Plugin) else default
    return _JSON.dump_python(default, mode="json", by_alias=True)


def _differences(path: str, before: Any, now: Any) -> Iterator[Change]:
    """Of two mappings what differs inside."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            yield from _differences(f"{path}.{key}", before.get(key, _NONE), now.get(key, _NONE))
    elif before != now:
        yield Change(path, _json(before), _json(now))


def _json(value: Any) -> str:
    return "-" if value is _NONE else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
