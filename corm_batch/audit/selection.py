"""Which documents are verified: by a hash of the id, so that every run, and every share above it, agrees."""

from __future__ import annotations

import hashlib

SALT = "corm-batch verify 1"
"""Hashed before the id: nothing else of a job is hashed with it, so the choice says nothing of any other order."""
_BITS = 64


def is_chosen(doc_id: str, share: float) -> bool:
    """Whether this document is among a `share` of all: blake2b of salt, a zero byte and id, as a number of [0, 1)."""
    digest = hashlib.blake2b(f"{SALT}\0{doc_id}".encode("utf-8", "surrogatepass"), digest_size=_BITS // 8).digest()
    return bool(int.from_bytes(digest, "big") < share * 2**_BITS)
