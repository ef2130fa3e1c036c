"""Ledger: what the committed results say is done. The parts are the checkpoint; there is no other record.

A document is done when the newest row of its id is about the same content under the same fingerprint.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Literal

import pyarrow as pa

from corm_batch.data.document import Document
from corm_batch.output.newest_rows import memory_parts, newest_rows, with_memory
from corm_batch.output.parts import folder, list_parts, read_ahead, read_part

State = Literal["new", "ok", "failed"]
_COLUMNS = ["doc_id", "content_sha256", "fingerprint", "status"]
_OK, _FAILED = b"+", b"-"


class Ledger:
    """Done documents by id, as 16-byte digests: about 150 bytes of memory a document."""

    def __init__(self, fingerprint: str) -> None:
        """An empty ledger for a job of this fingerprint."""
        self._fingerprint = fingerprint
        self._newest: dict[bytes, bytes] = {}  # digest of the id -> digest of the content and its mark

    @classmethod
    def read(cls, output_uri: str, fingerprint: str) -> Ledger:
        """The ledger of what is committed under `output_uri`.

        Raises:
            SourceError: a part cannot be read.
        """
        ledger = cls(fingerprint)
        for part in read_ahead(partial(read_part, columns=_COLUMNS), list_parts(folder(output_uri, "results"))):
            columns = part.to_pydict()
            for doc_id, content, print_, status in zip(*(columns[name] for name in _COLUMNS), strict=True):
                ledger._newest[digest(doc_id)] = digest(content, print_) + (_OK if status == "ok" else _FAILED)
        return ledger

    def state(self, document: Document) -> State:
        """What the newest row says of this document; "new" when it is about another content or fingerprint."""
        newest = self._newest.get(digest(document.doc_id))
        if newest is None or newest[:-1] != digest(document.content_sha256, self._fingerprint):
            return "new"
        return "ok" if newest[-1:] == _OK else "failed"


def read_results(output_uri: str, *, memory: bool = False) -> pa.Table:
    """The newest row of every document, in no particular order.

    Args:
        output_uri: where the job wrote.
        memory: add the columns of the memory table.

    Raises:
        SourceError: a part cannot be read.
    """
    newest = newest_rows(output_uri)
    memory_of = memory_parts(output_uri) if memory else {}

    def read(uri: str) -> pa.Table:
        rows = read_part(uri).filter(newest[uri])
        return with_memory(rows, read_part(memory_of[uri])) if uri in memory_of else rows

    parts = list(read_ahead(read, newest))
    return pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})


def digest(*parts: str) -> bytes:
    """16 bytes that stand for these texts where there are too many to hold."""
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
