"""Plug-ins by name: a policy, a source or a task is one class in one file.

    class Corm(KVPolicy, name="corm"): ...

A kind of plug-in (`KVPolicy`, `Source`, `Task`) names the package its plug-ins live in; every module of that package is
imported the first time a name is looked up, so adding one means adding a file and nothing else. Knows nothing of what
the plug-ins do.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import reprlib
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from corm_batch.errors import SpecError
from corm_batch.harmless import without_credentials

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
            lines.append(f"{path}: unknown key; known here: {', '.join(_keys(model, item['loc']))}")
        else:
            given = "" if item["type"] == "missing" or not item["loc"] else f", got {shown(item['input'])}"
            lines.append(f"{path}: {item['msg'].removeprefix('Value error, ')}{given}".removeprefix(": "))
    return "\n".join(lines)


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that are known where the unknown key `loc` stands in `model`."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        nested = field.annotation if field else None
        if not (isinstance(nested, type) and issubclass(nested, BaseModel)):
            return []
        model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


class Plugin(BaseModel):
    """A frozen value whose fields are its settings, found by `name` in its kind's package.

    Attributes:
        version: raised when the same settings are to give other answers than before, which has all documents answered
            under the former version answered again. A new field whose default does what was done before needs none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    package: ClassVar[str] = ""
    version: ClassVar[int] = INITIAL_VERSION
    _plugins: ClassVar[dict[str, type[Plugin]]] = {}

    def __init_subclass__(cls, *, name: str = "", kind: str = "", package: str = "", **kwargs: Any) -> None:
        """Register `cls` under `name`, or open a new kind with its own names."""
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind, cls.package, cls._plugins = kind, package, {}
        if name:
            if name in cls._plugins:
                raise ValueError(f"two {cls.kind} plug-ins are called {name!r}: {cls._plugins[name]} and {cls}")
            cls.name = name
            cls._plugins[name] = cls

    @classmethod
    def registered(cls) -> dict[str, type[Self]]:
        """Name to class, sorted by name, after importing every module of the kind's package."""
        package = importlib.import_module(cls.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{cls.package}.{module.name}")
        return {name: cls._plugins[name] for name in sorted(cls._plugins)}  # type: ignore[misc]

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
            raise SpecError(f"{cls.kind}.name: no {cls.kind} is called {shown(name)}; there are:\n{choices}")
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
