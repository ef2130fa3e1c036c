"""Ledger: what the committed results say is done. The parts are the checkpoint; there is no other record.

A document is done when the newest row of its id is about the same content under the same settings. Where the job
answers again what an uncompressed cache would have answered otherwise, a row that says so of itself, and was left at
that, is not done; nor is, where it has a fallback, one whose answer could not be used and that was not tried with it. A
part that is damaged says nothing: its documents are answered again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import pyarrow as pa

from corm_batch.audit.config import VerifyConfig
from corm_batch.audit.selection import is_chosen
from corm_batch.data.document import Document, digest
from corm_batch.data.parts import folder, list_parts, read_ahead, read_fields
from corm_batch.data.schema import RESULT_FIELDS
from corm_batch.errors import AnswerError, DamagedPartError
from corm_batch.output.settings import SETTINGS, AnswerSettings, Change
from corm_batch.spec import JobSpec

State = Literal["new", "ok", "failed"]
_COLUMNS = [
    *("doc_id", "content_sha256", "fingerprint", "status", "question_number"),
    *("first_difference", "rerun", "verify_error", "error_type", "failed_fields", "fallback", "carried_sha256"),
]
# what is kept of a document's newest row: digest of its content, mark and, where columns are carried over, its part and
# a digest of these, so short that a block of Python's memory still holds it all
_CONTENT, _MARK, _PART, _CARRIED = slice(0, 16), slice(16, 20), slice(20, 24), slice(24, 31)


class _Mark(NamedTuple):
    """What is kept of a document's newest row: the number of its writer, whether it failed, whether it differs and was
    left at that, and whether its answer is unusable and no other was asked for."""

    number: int
    failed: bool
    differing: bool
    unusable: bool

    @classmethod
    def read(cls, newest: bytes) -> Self:
        mark = int.from_bytes(newest[_MARK], "big")
        return cls(mark // 8, bool(mark & 1), bool(mark & 2), bool(mark & 4))

    def to_bytes(self) -> bytes:
        mark = 8 * self.number + 4 * self.unusable + 2 * self.differing + self.failed
        return mark.to_bytes(_MARK.stop - _MARK.start, "big")


@dataclass(frozen=True)
class _Writer:
    """Who wrote rows: the job's name and settings, None where no metadata tells, and whether its rows stand."""

    job: str | None
    settings: AnswerSettings | None
    done: bool


@dataclass(frozen=True)
class EarlierRows:
    """Newest rows of an output that another job, or other settings, left there.

    Attributes:
        job: the name of the job that wrote them; None when their parts do not tell.
        ok, failed: how many.
        done: whether they stand, being answered under the same settings.
        changes: what was set otherwise; empty when they stand, or when their parts do not tell.
    """

    job: str | None
    ok: int
    failed: int
    done: bool
    changes: tuple[Change, ...]

    @property
    def text(self) -> str:
        """What becomes of them and why, in one line."""
        one = self.ok + self.failed == 1
        rows = "1 row" if one else f"{self.ok + self.failed} rows"
        failed = f" ({self.failed} failed)" if self.failed else ""
        are, they = ("is", "it") if one else ("are", "they")
        by = f"of the job {self.job}" if self.job is not None else "of a job that no part names"
        if self.done:
            return f"{rows}{failed} here {are} {by}, under the same settings: {they} {are} not answered again"
        why = "; ".join(change.text for change in self.changes) or "no part says which"
        again = "what the source has of them is answered again"
        return f"{rows}{failed} here, {by}, {are} under other settings ({why}): {again}"


class Ledger:
    """Done documents by id, as 16-byte digests: about 150 bytes of memory a document.

    Attributes:
        damaged: one line for each part of the results that cannot be read and was left out.
    """

    def __init__(
        self,
        settings: AnswerSettings,
        job: str,
        verify: VerifyConfig | None = None,
        *,
        fallback: bool = False,
        carries: bool = False,
    ) -> None:
        """An empty ledger for a job of these settings and this name that verifies answers so, has a `fallback` for
        those that cannot be used, and `carries` columns of the source over."""
        self._settings, self._job = settings, job
        self._share_rerun = verify.share if verify is not None and verify.on_difference == "rerun" else 0.0
        self._fallback = fallback
        self._carries = carries
        self._parts: list[str] = []
        self._newest: dict[bytes, bytes] = {}  # digest of the id -> what is kept of its newest row
        self._writers: list[_Writer] = []
        self._numbers: dict[tuple[bytes, ...], int] = {}  # what tells a writer -> its place in the list
        self._places: dict[str, set[str]] = {}  # file -> ids of failed rows that may be named after a place in it
        self.damaged: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: JobSpec, settings: AnswerSettings) -> Ledger:
        """That of a job, of these settings.

        Raises:
            SourceError: as `read`.
        """
        options = {"fallback": spec.fallback is not None, "carries": bool(spec.output.columns)}
        return cls.read(spec.output.uri, settings, spec.name, spec.verify, **options)

    @classmethod
    def read(
        cls,
        output_uri: str,
        settings: AnswerSettings,
        job: str,
        verify: VerifyConfig | None = None,
        *,
        fallback: bool = False,
        carries: bool = False,
    ) -> Ledger:
        """The ledger of what is committed under `output_uri`.

        Raises:
            SourceError: a part cannot be fetched, or is none of a job's results.
        """
        ledger = cls(settings, job, verify, fallback=fallback, carries=carries)
        uris = list_parts(folder(output_uri, "results"))
        for uri, part in zip(uris, read_ahead(_read, uris), strict=True):
            if isinstance(part, DamagedPartError):
                ledger.damaged += (str(part),)
            else:
                ledger._add(part, uri)
        return ledger

    def state(self, document: Document) -> State:
        """What the newest row says of this document; "new" when it is about another content or other settings."""
        newest = self._newest.get(digest(document.doc_id))
        if newest is None or newest[_CONTENT] != digest(document.content_sha256):
            return "new"
        mark = _Mark.read(newest)
        if not self._writers[mark.number].done or (self._fallback and mark.unusable):
            return "new"
        if mark.differing and is_chosen(document.doc_id, self._share_rerun):
            return "new"
        return "failed" if mark.failed else "ok"

    def outdated(self, document: Document) -> str | None:
        """The part with the row of a document that is done, if what it has of the source's columns is not what they
        are now; else None."""
        newest = self._newest[digest(document.doc_id)]
        if newest[_CARRIED] == _short(document.carried_sha256):
            return None
        return self._parts[int.from_bytes(newest[_PART], "big")]

    def failed_places(self, file: str) -> frozenset[str]:
        """Ids of the failed rows that are called after a place in this file, `file#...`."""
        return frozenset(self._places.get(file, ()))

    def clear(self) -> None:
        """Let go of all documents, where no more are looked at."""
        self._newest.clear()
        self._places.clear()

    def earlier(self) -> tuple[EarlierRows, ...]:
        """The rows that another job or other settings left here, most rows first."""
        counts: Counter[tuple[str | None, bool, tuple[Change, ...], bool]] = Counter()
        for mark, rows in Counter(map(_Mark.read, self._newest.values())).items():
            writer = self._writers[mark.number]
            changes = self._settings.changes(writer.settings) if writer.settings is not None else ()
            counts[writer.job, writer.done, changes, mark.failed] += rows
        found = [
            EarlierRows(job, counts[job, done, changes, False], counts[job, done, changes, True], done, changes)
            for job, done, changes in dict.fromkeys(key[:3] for key in counts)
            if not done or job not in (self._job, None)
        ]
        return tuple(sorted(found, key=lambda rows: -(rows.ok + rows.failed)))

    def _add(self, part: pa.Table, uri: str) -> None:
        columns = part.to_pydict()
        numbers: dict[str, int] = {}
        place = len(self._parts).to_bytes(_PART.stop - _PART.start, "big")
        self._parts.append(uri)
        for doc_id, content, fingerprint, status, question, *found in zip(
            *(columns[name] for name in _COLUMNS), strict=True
        ):
            if fingerprint not in numbers:
                numbers[fingerprint] = self._number(fingerprint, part.schema.metadata or {})
            if "#" in doc_id:
                places = self._places.setdefault(doc_id.rpartition("#")[0], set())
                (places.add if status == "failed" else places.discard)(doc_id)
            if question:  # not the first row of its document, which is answered when any of them is
                if status == "ok" and (first := self._newest.get(digest(doc_id))) is not None:
                    answered = _Mark.read(first)._replace(failed=False)
                    self._newest[digest(doc_id)] = first[_CONTENT] + answered.to_bytes() + first[_PART.start :]
                continue
            if status == "gone":
                self._newest.pop(digest(doc_id), None)
                continue
            first_difference, rerun, verify_error, error_type, failed_fields, fallback, carried = found
            mark = _Mark(
                numbers[fingerprint],
                failed=status != "ok",
                differing=first_difference is not None and not rerun and verify_error is None,
                unusable=fallback is None and (bool(failed_fields) or error_type == AnswerError.__name__),
            )
            rest = place + _short(carried) if self._carries else b""
            self._newest[digest(doc_id)] = digest(content) + mark.to_bytes() + rest

    def _number(self, fingerprint: str, metadata: Mapping[bytes, bytes]) -> int:
        """The number of the writer of rows with `fingerprint` in a part with this metadata.

        Metadata speaks for the rows whose fingerprint it names: somebody may have put parts together.
        """
        if metadata.get(b"corm_batch.fingerprint") != fingerprint.encode():
            metadata = {}
        key = (fingerprint.encode(), *(metadata.get(name.encode(), b"") for name in ("corm_batch.job", *SETTINGS)))
        if key not in self._numbers:
            self._numbers[key] = len(self._writers)
            settings = AnswerSettings.of_part(metadata)
            stands = self._settings.fingerprint == fingerprint if settings is None else self._settings.same_as(settings)
            self._writers.append(_Writer(key[1].decode() or None, settings, stands))
        return self._numbers[key]


def _short(carried_sha256: str | None) -> bytes:
    """A digest of what a row carries over."""
    return digest(carried_sha256 or "")[: _CARRIED.stop - _CARRIED.start]


def _read(uri: str) -> pa.Table | DamagedPartError:
    try:
        return read_fields(uri, [field for field in RESULT_FIELDS if field.name in _COLUMNS])
    except DamagedPartError as error:
        return error
