"""Every error a user can meet, as one tree.

CormBatchError
├─ SpecError (also ValueError)   the YAML or an argument is wrong: field path, value given, what is allowed
├─ SourceError                   documents cannot be read
│  ├─ FileError                  one file cannot, or not to its end; the job goes on with the others
│  └─ DamagedPartError           a file that a job has written is not whole: which, and what to do
├─ OutputError                   a part cannot be written
├─ CapacityError                 one document can never fit the pool: bytes needed, bytes there
├─ DocumentError                 one document cannot be asked about: a failed row, the job goes on
├─ AnswerError                   what the model answered cannot be used: a failed row that keeps the answer
├─ UnsupportedModelError         the model needs an attention feature the engine would get wrong
├─ ModelLoadError                the model cannot be found or read
├─ EngineError                   an engine failed as a whole, and with it whatever it was answering
│  ├─ RankError                  a process of a tensor-parallel engine failed: which, why
│  └─ BrokenEngineError          a replica's engine failed or answers no more: the replica is replaced
└─ LeaseError                    another driver holds this output: who, since when
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corm_batch.harmless import harmless


class CormBatchError(Exception):
    """Base of every error this package raises on purpose; its text holds no credentials and no control characters."""

    def __str__(self) -> str:
        """The message, fit to be shown anywhere."""
        return harmless(super().__str__())


class SpecError(CormBatchError, ValueError):
    """A job spec or an argument is wrong: which field, what was given, what is allowed."""


class SourceError(CormBatchError):
    """Documents cannot be read."""


class FileError(SourceError):
    """One file of a source cannot be read, or not to its end; the job records that and goes on with the others.

    Attributes:
        uri: the file.
        reason: what is wrong with it, and what to do where that is known.
    """

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"{uri}: {reason}")
        self.uri = uri
        self.reason = reason


class DamagedPartError(SourceError):
    """A file that a job has written can be fetched and is not whole; the message says which and what to do."""


class OutputError(CormBatchError):
    """Results cannot be written; nothing that was committed before is lost."""


class CapacityError(CormBatchError):
    """One document needs more cache than the whole pool has.

    Attributes:
        bytes_needed: bytes of pages the document needs, at least.
        bytes_available: bytes of pages the pool has in all.
    """

    def __init__(self, message: str, *, bytes_needed: int, bytes_available: int) -> None:
        super().__init__(message)
        self.bytes_needed = bytes_needed
        self.bytes_available = bytes_available


class DocumentError(CormBatchError):
    """One document cannot be asked about; the job records why in its row and goes on."""


class AnswerError(CormBatchError):
    """What the model answered cannot be used; the document's row keeps all of it and says why.

    Attributes:
        output: what was answered; None for everything the model wrote about the document.
        columns: the task's columns that are right all the same.
    """

    def __init__(self, message: str, *, output: str | None = None, columns: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.output = output
        self.columns = dict(columns or {})


class UnsupportedModelError(CormBatchError):
    """The model has a feature this engine would compute wrongly; the message names it."""


class ModelLoadError(CormBatchError):
    """No model at that path or id, or its files cannot be read."""


class EngineError(CormBatchError):
    """An engine failed as a whole."""


class BrokenEngineError(EngineError):
    """The engine of a replica failed as a whole or answers no more; the replica has to be replaced."""


class RankError(EngineError):
    """A process of a tensor-parallel engine failed, and with it the engine; the message says which and why."""


class LeaseError(CormBatchError):
    """Another driver holds this output."""
