"""Plug-ins by name: a policy, a budget, a source, a task or a suite is one class in one file.

    class Corm(KVPolicy, name="corm"): ...

A kind of plug-in (`KVPolicy`, `Source`, `Task`) names the package its plug-ins live in; every module of that package is
imported the first time a name is looked up, so adding one means adding a file and nothing else. A plug-in of somebody
else's lives in a file that `load_plugin` reads, or in an installed package that names it as an entry point of the group
`corm_batch.policies`, `.budgets`, `.storage`, `.propagation`, `.weights`, `.sources`, `.formats`, `.tasks` or
`.suites`. Knows nothing of what the plug-ins do.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import reprlib
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from corm_batch.errors import SpecError
from corm_batch.harmless import without_credentials
from corm_batch.plugin_file import PluginFile

INITIAL_VERSION = 1


class Mark(Enum):
    """What is said of a field where it is declared, as `Annotated[type, mark]`."""

    SAME_ANSWERS = auto()
    """It says where, how fast or in how much room, never what is answered; every field without it counts."""


SAME_ANSWERS: Final[Literal[Mark.SAME_ANSWERS]] = Mark.SAME_ANSWERS


class _Short(reprlib.Repr):
    """Bounded in length; credentials go before anything is cut, for the end of a secret tells that it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120

    def repr_str(self, text: str, level: int) -> str:
        """A text without its credentials."""
        return super().repr_str(without_credentials(text), level)


_SHORT = _Short()


def shown(value: object) -> str:
    """`value` as a message shows it: bounded in length, without the credentials a URI may carry."""
    return _SHORT.repr(value)


def describe(error: ValidationError, prefix: str, model: type[BaseModel]) -> str:
    """One line per wrong field of `model`: its path under `prefix`, what was given and what is allowed."""
    lines = []
    for item in error.errors(include_url=False):
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SpecError):  # a plug-in inside `model` has described itself
            lines.append(str(cause))
            continue
        path = ".".join(part for part in (prefix, *(str(part) for part in item["loc"])) if part)
        if item["type"] == "extra_forbidden":
            known = f"unknown key; known here: {', '.join(_keys(model, item['loc'])) or 'none'}"
            lines.append(f"{path}: {_elsewhere(model, item['loc']) or known}")
        else:
            given = "" if item["type"] == "missing" or not item["loc"] else f", got {shown(item['input'])}"
            lines.append(f"{path}: {item['msg'].removeprefix('Value error, ')}{given}".removeprefix(": "))
    return "\n".join(lines)


def _elsewhere(model: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    """Why a plug-in does not have the key `loc`, which others of its kind have; None where nothing is said of that."""
    return model.elsewhere.get(str(loc[0])) if issubclass(model, Plugin) and len(loc) == 1 else None


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that are known where the unknown key `loc` stands in `model`."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        nested = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if nested is None:
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


class Plugin(BaseModel):
    """A frozen value whose fields are its settings, found by `name` in its kind's package.

    Attributes:
        version: raised when the same settings are to give other answers than before, which has all documents answered
            under the former version answered again. A new field whose default does what was done before needs none.
            A plug-in file that does not say has the version of its text: whatever changes in it counts.
        gone: fields that a former version had, and the values at which they did what is done without them: rows
            answered under these stand. Null needs no mention.
        elsewhere: fields that others of its kind have, and why it has none such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    package: ClassVar[str] = ""
    version: ClassVar[int | str] = INITIAL_VERSION
    gone: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    elsewhere: ClassVar[Mapping[str, str]] = {}
    _plugins: ClassVar[dict[str, type[Plugin]]] = {}

    def __init_subclass__(cls, *, name: str = "", kind: str = "", package: str = "", **kwargs: Any) -> None:
        """Register `cls` under `name`, or open a new kind with its own names."""
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind, cls.package, cls._plugins = kind, package, {}
        file = PluginFile.of(cls.__module__)
        if file and "version" not in vars(cls):
            cls.version = file.digest
        if name:
            if not cls.__module__.startswith(f"{cls.package}."):
                cls._import_own()  # so that a name that is taken is found now
            other = cls._plugins.get(name)
            before = PluginFile.of(other.__module__) if other else None
            if other and not (file and before and file.path == before.path):
                raise ValueError(f"two {cls.kind} plug-ins are called {name!r}: {other} and {cls}")
            cls.name = name
            cls._plugins[name] = cls

    @classmethod
    def _import_own(cls) -> None:
        """Import every module of the kind's package."""
        package = importlib.import_module(cls.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{cls.package}.{module.name}")

    @classmethod
    def registered(cls) -> dict[str, type[Self]]:
        """Name to class, sorted by name, after importing every module of the kind's package and its entry points."""
        cls._import_own()
        _import_installed(cls.package)
        return {name: cls._plugins[name] for name in sorted(cls._plugins)}  # type: ignore[misc]

    @classmethod
    def by_name_alone(cls) -> list[str]:
        """Names of those of which no field has to be given."""
        return [
            name for name, plugin in cls.registered().items()
            if not any(field.is_required() for field in plugin.model_fields.values())
        ]  # fmt: skip

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any] | Self) -> Self:
        """Build the plug-in that `spec["name"]` selects from the other keys of `spec`.

        Raises:
            SpecError: no name, an unknown name (the answer lists what there is), or a wrong field.
        """
        if isinstance(spec, cls):
            return spec
        if not isinstance(spec, Mapping):
            raise SpecError(f"{cls.kind}: expected a mapping with a name, got {shown(spec)}")
        known = cls.registered()
        name = spec.get("name")
        if not isinstance(name, str) or name not in known:
            choices = "\n".join(f"  {key}: {plugin.summary()}" for key, plugin in known.items())
            broken = "".join(f"\ncannot be imported: {failure}" for failure in _import_installed(cls.package))
            raise SpecError(f"{cls.kind}.name: no {cls.kind} is called {shown(name)}; there are:\n{choices}{broken}")
        try:
            return known[name].model_validate({key: value for key, value in spec.items() if key != "name"})
        except ValidationError as error:
            raise SpecError(describe(error, cls.kind, known[name])) from error

    @classmethod
    def summary(cls) -> str:
        """First line of the class docstring."""
        return (inspect.getdoc(cls) or "").split("\n", 1)[0]

    def to_spec(self) -> dict[str, Any]:
        """The mapping `from_spec` takes, with every field written out."""
        return {"name": self.name, **self.model_dump(mode="json", by_alias=True)}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as usual, but with the text of the plug-in file that defines it."""
        file = PluginFile.of(type(self).__module__)
        if file is None:
            return super().__reduce_ex__(protocol)
        return _bare, (file, type(self).__qualname__), self.__getstate__()


@cache
def _import_installed(package: str) -> tuple[str, ...]:
    """Import what installed packages name as plug-ins of a kind; what could not be, and why: no job that does without
    it fails for it."""
    failures = []
    for entry in entry_points(group=f"corm_batch.{package.rpartition('.')[2]}"):
        try:
            entry.load()
        except Exception as error:
            owner = entry.dist.name if entry.dist else "?"
            failures.append(f"{entry.name} ({entry.value}) of {owner}: {type(error).__name__}: {error}")
    return tuple(failures)


def load_plugin(path: str) -> tuple[type[Plugin], ...]:
    """Register the plug-ins that a Python file defines, under their names; a later text replaces an earlier one's.

    Raises:
        SpecError: the file cannot be read or run, defines no plug-in, or one whose name is taken.
    """
    file = PluginFile.read(path)
    try:
        module = file.load()
    except SpecError:
        _forget(file.module_name)
        raise
    found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Plugin)]
    made = tuple(plugin for plugin in found if "name" in vars(plugin) and plugin.__module__ == file.module_name)
    if not made:
        kinds = ", ".join(sorted(kind.__name__ for kind in Plugin.__subclasses__()))
        raise SpecError(f"{path}: defines no plug-in: no subclass, with a name, of {kinds}")
    for plugin in made:
        plugin._plugins[plugin.name] = plugin
    return made


def plugin_files(value: object) -> tuple[PluginFile, ...]:
    """The files that define a plug-in, or those that its fields or a spec's sections hold."""
    if not isinstance(value, BaseModel):
        return ()
    own = PluginFile.of(type(value).__module__)
    held = [file for field in vars(value).values() for file in plugin_files(field)]
    return tuple(dict.fromkeys([*([own] if own else []), *held]))


def _forget(module: str) -> None:
    """Take back what a file registered before it failed."""
    for kind in Plugin.__subclasses__():
        for name in [name for name, plugin in kind._plugins.items() if plugin.__module__ == module]:
            del kind._plugins[name]


def _bare(file: PluginFile, name: str) -> Any:
    """An object of a plug-in file's class, for its state to be set."""
    made = getattr(file.load(), name)
    return made.__new__(made)
