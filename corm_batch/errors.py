"""Every error a user can meet, as one tree; what a caller catches is a branch.

CormBatchError
├─ SpecError (also ValueError)   the YAML or an argument is wrong: field path, value given, what is allowed
├─ ModelError                    the model cannot be asked as it is
│  ├─ ModelLoadError             it cannot be found or read
│  └─ UnsupportedModelError      it needs a feature that the engine would get wrong
├─ SourceError                   something cannot be read
│  ├─ FileError                  one file of documents cannot, or not to its end; the job goes on with the others
│  │  └─ ColumnsError            it does not have the columns that the job asks for
│  └─ DamagedPartError           a file that a job has written is not whole: which, and what to do
├─ OutputError                   results cannot be written
│  └─ LeaseError                 another driver holds this output: who, since when
├─ DocumentError                 one document has no answer: a failed row that says why, the job goes on
│  ├─ GrammarError               no answer can be held to the form that is asked for
│  ├─ CapacityError              it can never fit the pool: bytes needed, bytes there
│  └─ AnswerError                what the model answered cannot be used: the row keeps the answer
│     └─ CutOffError             it ends inside its JSON
├─ EngineError                   an engine cannot go on
│  ├─ RankError                  a process of a tensor-parallel engine failed: which, why
│  ├─ BrokenEngineError          a replica's engine failed or answers no more: the replica is replaced
│  ├─ OutOfPages                 the pool has fewer pages than asked for; never leaves the engine
│  └─ Shortage                   work found too little memory; never leaves the engine
└─ ClusterError                  a Ray cluster does not answer, refuses the token, or has lost a job
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

from corm_batch.harmless import harmless


class CormBatchError(Exception):
    """Base of every error this package raises on purpose; its text holds no credentials and no control characters."""

    def __str__(self) -> str:
        """The message, fit to be shown anywhere."""
        return harmless(super().__str__())

    def __reduce__(self) -> Any:
        """Pickled as it is, whatever its class is made from."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class SpecError(CormBatchError, ValueError):
    """A job spec or an argument is wrong: which field, what was given, what is allowed."""


class ModelError(CormBatchError):
    """The model cannot be asked as it is."""


class ModelLoadError(ModelError):
    """No model at that path or id, or its files cannot be read."""


class UnsupportedModelError(ModelError):
    """The model has a feature this engine would compute wrongly; the message names it."""


class SourceError(CormBatchError):
    """Something cannot be read: documents, a spec, or what a job has written."""


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


class ColumnsError(FileError):
    """A file can be read, but does not have the columns that the job asks for."""


class DamagedPartError(SourceError):
    """A file that a job has written can be fetched and is not whole; the message says which and what to do."""


class OutputError(CormBatchError):
    """Results cannot be written; nothing that was committed before is lost."""


class LeaseError(OutputError):
    """Another driver holds this output."""


class DocumentError(CormBatchError):
    """One document cannot be asked about; the job records why in its row and goes on."""


class GrammarError(DocumentError, ValueError):
    """No answer can be held to the form that is asked for: which part of it, or which tokenizer, and why."""


class CapacityError(DocumentError):
    """One document needs more cache than the whole pool has.

    Attributes:
        bytes_needed: bytes of pages the document needs, at least.
        bytes_available: bytes of pages the pool has in all.
    """

    def __init__(self, message: str, *, bytes_needed: int, bytes_available: int) -> None:
        super().__init__(message)
        self.bytes_needed = bytes_needed
        self.bytes_available = bytes_available


class AnswerError(DocumentError):
    """What the model answered cannot be used; the document's row keeps all of it and says why.

    Attributes:
        output: what was answered; None for everything the model wrote about the document.
        columns: the task's columns that are right all the same.
        finish_reason: why that answer ended: "stop" or "length".
    """

    def __init__(
        self,
        message: str,
        *,
        output: str | None = None,
        columns: Mapping[str, Any] | None = None,
        finish_reason: str = "stop",
    ) -> None:
        super().__init__(message)
        self.output = output
        self.columns = dict(columns or {})
        self.finish_reason = finish_reason


class CutOffError(AnswerError, ValueError):
    """An answer ends inside its JSON.

    Attributes:
        begun: that JSON.
    """

    def __init__(self, message: str, *, begun: str = "") -> None:
        super().__init__(message)
        self.begun = begun


class EngineError(CormBatchError):
    """An engine cannot go on."""


class RankError(EngineError):
    """A process of a tensor-parallel engine failed, and with it the engine; the message says which and why."""


class BrokenEngineError(EngineError):
    """The engine of a replica failed as a whole or answers no more; the replica has to be replaced."""


class OutOfPages(EngineError):
    """The pool has fewer free pages than asked for. Never leaves the engine.

    Attributes:
        num_missing: pages short.
    """

    def __init__(self, num_missing: int) -> None:
        super().__init__(f"{num_missing} pages short")
        self.num_missing = num_missing


class Shortage(EngineError):
    """Work found too little memory; it is the scheduler's to take back. Never leaves the engine.

    Attributes:
        error: OutOfPages where it was the pool's, torch.OutOfMemoryError where it was the device's.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class ClusterError(CormBatchError):
    """A Ray cluster does not answer, refuses the token, does not do what it is told, or has lost a job."""
