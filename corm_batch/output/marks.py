"""Marks: what somebody who reads a row's answer ought to know of it, besides whether it is ok."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corm_batch.text.repetition import LOOPING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Marks:
    """Of one row of the results, answered or failed.

    Attributes:
        cut_off: an answer it rests on ended at task.max_new_tokens.
        truncated: only a part of the document was read.
        looping: its answer repeats itself over and over.
        with_failed_fields: fields of it are null because their answer could not be used.
        fallback: its answer is an uncompressed cache's, for the first one could not be used.
        audited: its answer could have been chosen to be held against an uncompressed cache's, or was.
        verified: of these, it was.
        differing: of these, the uncompressed cache would have answered otherwise.
        rerun: of these, it has, and the answer is that one.
        unverified: it was chosen, and could not be verified.
        scored: its answer is a sampled one, of which an uncompressed cache has told no more than its probability.
    """

    cut_off: bool
    truncated: bool
    looping: bool
    with_failed_fields: bool
    fallback: bool = False
    audited: bool = False
    verified: bool = False
    differing: bool = False
    rerun: bool = False
    unverified: bool = False
    scored: bool = False

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Marks:
        """Read them off a row, of which any column may be missing."""
        verified = row.get("agreement") is not None
        unverified = row.get("verified") is None and row.get("verify_error") is not None
        return cls(
            cut_off=row.get("finish_reason") == "length",
            truncated=bool(row.get("truncated")),
            looping=(row.get("repetition") or 0.0) >= LOOPING,
            with_failed_fields=bool(row.get("failed_fields")),
            fallback=bool(row.get("fallback")),
            audited=verified or unverified or row.get("verified") is False,
            verified=verified,
            differing=row.get("first_difference") is not None,
            rerun=bool(row.get("rerun")),
            unverified=unverified,
            scored=bool(row.get("verified")) and not verified,
        )

    @staticmethod
    def count(rows: pa.Table) -> dict[str, int]:
        """How many rows have each mark, by its name; of `failed_fields` the rows hold how many there are."""
        import pyarrow.compute as pc  # a command line that reads no rows starts without it

        verified = pc.is_valid(rows["agreement"])
        unverified = pc.and_(pc.is_null(rows["verified"]), pc.is_valid(rows["verify_error"]))
        unchosen = pc.fill_null(pc.invert(rows["verified"]), False)
        found = {
            "cut_off": pc.equal(rows["finish_reason"], "length"),
            "truncated": rows["truncated"],
            "looping": pc.greater_equal(rows["repetition"], LOOPING),
            "with_failed_fields": pc.greater(rows["failed_fields"], 0),
            "fallback": rows["fallback"],
            "audited": pc.or_(pc.or_(verified, unverified), unchosen),
            "verified": verified,
            "differing": pc.is_valid(rows["first_difference"]),
            "rerun": rows["rerun"],
            "unverified": unverified,
            "scored": pc.and_(rows["verified"], pc.invert(verified)),
        }
        return {name: pc.sum(mark).as_py() or 0 for name, mark in found.items()}
