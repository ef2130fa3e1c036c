"""PluginFile: a Python file of somebody's own as a module, here and in every process its objects are sent to.

Its text travels with what is pickled, so no other machine needs the file. Knows nothing of what it defines.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from corm_batch.errors import SpecError

_FILE = "__plugin_file__"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class PluginFile:
    """One version of a file.

    Attributes:
        path: where it was read; only shown.
        source: its text.
    """

    path: str
    source: str

    @classmethod
    def read(cls, path: str) -> PluginFile:
        """The file at a local path.

        Raises:
            SpecError: no such file, or no text.
        """
        try:
            return cls(path, Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: cannot read the plug-in: {error}") from error

    @classmethod
    def of(cls, module: str) -> PluginFile | None:
        """The file whose module has this name; None when another import made it."""
        found: PluginFile | None = getattr(sys.modules.get(module), _FILE, None)
        return found

    @property
    def digest(self) -> str:
        """Says which version it is, wherever it lies."""
        return _hash(self.source)

    @property
    def file_name(self) -> str:
        """What it is called where a copy of it goes along with a job."""
        return f"{self.module_name}.py"

    @property
    def module_name(self) -> str:
        """What its module is called, in every process."""
        stem = re.sub(r"[^0-9A-Za-z]", "_", Path(self.path).stem)
        return f"corm_batch_plugin_{stem}_{_hash(self.path + self.source)}"

    def load(self) -> ModuleType:
        """The module, run once a process.

        Raises:
            SpecError: it does not compile, or raises.
        """
        if (loaded := sys.modules.get(self.module_name)) is not None:
            return loaded
        module = ModuleType(self.module_name)
        module.__file__ = self.path
        setattr(module, _FILE, self)
        sys.modules[self.module_name] = module
        try:
            exec(compile(self.source, self.path, "exec"), module.__dict__)
        except BaseException as error:
            del sys.modules[self.module_name]
            if not isinstance(error, Exception):
                raise
            raise SpecError(f"{self.path}: {type(error).__name__}: {error}") from error
        return module
